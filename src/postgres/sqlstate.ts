import { MEMBERS_WITH_VALUES } from '../util/error-without-values.js';

/** SQLSTATEs this library reacts to (PostgreSQL manual, appendix A). */
export const SQLSTATE = {
  divisionByZero: '22012',
  insufficientPrivilege: '42501',
  notNullViolation: '23502',
  activeSqlTransaction: '25001',
  readOnlySqlTransaction: '25006',
  inFailedSqlTransaction: '25P02',
  invalidSqlStatementName: '26000',
  invalidTransactionTermination: '2D000',
  serializationFailure: '40001',
  deadlockDetected: '40P01',
  lockNotAvailable: '55P03',
  duplicatePreparedStatement: '42P05',
  raiseException: 'P0001',
} as const;

/** What pg's `DatabaseError` carries; a broken connection has no SQLSTATE. */
export interface PostgresError extends Error {
  code?: string;
  /** In the language of the server's messages. */
  severity?: string;
  column?: string;
  /** May quote a whole row. */
  detail?: string;
  /** May quote the parameters of the statement (`log_parameter_max_length_on_error`). */
  where?: string;
}

/** The driver's own error: TypeORM wraps it in a `QueryFailedError`. */
export function postgresErrorOf(error: unknown): PostgresError | undefined {
  if (!(error instanceof Error)) {
    return undefined;
  }
  const { driverError } = error as { driverError?: unknown };
  return driverError instanceof Error ? driverError : error;
}

/** Takes the values out that PostgreSQL quotes: scopes, keys, responses and outcomes are not for a log. */
export function hideValues(error: unknown): void {
  for (const each of [error, postgresErrorOf(error)] as (PostgresError | undefined)[]) {
    if (each !== undefined) {
      MEMBERS_WITH_VALUES.forEach((name) => Reflect.deleteProperty(each, name));
    }
  }
}

export function sqlStateOf(error: unknown): string | undefined {
  return postgresErrorOf(error)?.code;
}

/**
 * Which of the columns refused a null. Of an error on a worker Citus hands on the text alone, which has the column's name
 * in every language; it has no values.
 */
export function nullColumnOf<Column extends string>(error: unknown, columns: readonly Column[]): Column | undefined {
  const cause = postgresErrorOf(error);
  if (cause?.code !== SQLSTATE.notNullViolation) {
    return undefined;
  }
  return columns.find((column) =>
    cause.column === undefined ? cause.message.includes(column) : cause.column === column,
  );
}

/** Whether a constraint, the lack of a partition, or a trigger's RAISE has refused a row. */
export function refusesRow(code: string | undefined): boolean {
  return code?.startsWith('23') === true || code === SQLSTATE.raiseException;
}

/** Serialization failures and deadlocks: the same work may succeed when it is run again (PostgreSQL manual, 13.5). */
export function isRetryable(error: unknown): boolean {
  const code = sqlStateOf(error);
  return code === SQLSTATE.serializationFailure || code === SQLSTATE.deadlockDetected;
}

/**
 * Conditions with which a server, or a pooler on its behalf, ends a session. The severity would tell, but it comes in the
 * language of `lc_messages`, and pg leaves out the one that does not.
 */
const ENDS_SESSION = /^(?:08|57P|25P0[34])/;

/**
 * Those that may: what PostgreSQL raises to PANIC in the middle of a COMMIT, whose outcome only recovery decides then (a
 * full disk, a failing one, an internal error), and what refuses a connection, which poolers do at any time.
 */
const MAY_END_SESSION = /^(?:28|3D|53|58|F0|XX)/;

/**
 * True when the server itself refused the statement and keeps the connection: whatever was sent behind it in the
 * same batch, a COMMIT included, was not executed. Anything else (a FATAL error, a broken socket, a time limit of
 * the driver) leaves the outcome open.
 */
export function isDefiniteFailure(error: unknown): boolean {
  const code = stateFromServer(error);
  return code !== undefined && !ENDS_SESSION.test(code) && !MAY_END_SESSION.test(code);
}

/** PostgreSQL's last word on a session that it ends; its socket closes a moment later. */
export function isSessionEnd(error: unknown): boolean {
  return ENDS_SESSION.test(stateFromServer(error) ?? '');
}

/** Node's errors have a `code` as well, `EPIPE` one that could be an SQLSTATE; but only a server's have a severity. */
function stateFromServer(error: unknown): string | undefined {
  const { severity, code } = postgresErrorOf(error) ?? {};
  return severity === undefined ? undefined : code;
}
