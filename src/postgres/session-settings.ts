import type { PoolClient } from 'pg';
import type { IsolationLevel } from '../protocol/options.js';
import { DURABLE_COMMIT, READABLE_LITERALS } from './statements/shared-statements.js';
import type { BoundStatement } from './statement-batch.js';

/** Between two checks of whether the application is still there, while a statement runs: its key is free that soon. */
const CONNECTION_CHECK_MS = 500;

/**
 * Names the transaction that is running. No COMMIT survives it, nor COMMIT AND CHAIN, which takes the time of its own
 * statement; and no setting holds it, which RESET ALL would take away. As a number, since DateStyle is the handler's.
 */
export const TRANSACTION_MARKER = `pg_backend_pid() || ' ' || (extract(epoch from transaction_timestamp()) * 1000000)::int8`;

/** From the weakest to the strongest. */
const COMMIT_LEVELS = `array['off', 'local', 'remote_write', 'on', 'remote_apply']`;

/** How the session was when its transaction began: so it is again when the library writes in it. */
export interface SessionSettings {
  marker: string;
  readOnly: boolean;
  /** In force, be it the server's default or the role's. */
  isolation: IsolationLevel;
  user: string;
  role: string;
  searchPath: string;
  clientEncoding: string;
  synchronousCommit: string;
  lockTimeout: string;
  statementTimeout: string;
}

/**
 * Select list of a transaction's first statement; its row is read by {@link noteSettings}. Limits that PostgreSQL itself
 * keeps ride along, all of them local: they free what an application holds that is frozen or gone, and end a statement
 * that has outlived its request. Those it was configured with stay where they are stricter.
 *
 * @param limit the parameter with the milliseconds that the transaction may take
 */
export function firstSettings(limit: string): string {
  const isStricter = `current_setting('statement_timeout')::interval
          between interval '1 millisecond' and ${limit}::text::float8 * interval '1 millisecond'`;
  return `${TRANSACTION_MARKER}, current_setting('transaction_read_only'), current_setting('transaction_isolation'),
        session_user, current_setting('role'), current_setting('search_path'), current_setting('client_encoding'),
        ${DURABLE_COMMIT}, current_setting('lock_timeout'),
        case when ${isStricter} then current_setting('statement_timeout')
          else set_config('statement_timeout', ${limit}::text, true) end,
        set_config('idle_in_transaction_session_timeout', ${limit}::text, true),
        case when current_setting('transaction_timeout', true) is not null
          then set_config('transaction_timeout', ${limit}::text, true) end,
        case when version() like '%-linux-%' and current_setting('client_connection_check_interval', true) = '0'
          then set_config('client_connection_check_interval', '${CONNECTION_CHECK_MS}', true) end`;
}

const begun = new WeakMap<PoolClient, { claimId: string; settings: SessionSettings }>();

/** Keeps the row of {@link firstSettings} for as long as this transaction of the connection lasts. */
export function noteSettings(client: PoolClient, claimId: string, row: (string | null)[]): SessionSettings {
  const [
    marker,
    readOnly,
    isolation,
    user,
    role,
    searchPath,
    clientEncoding,
    synchronousCommit,
    lockTimeout,
    statementTimeout,
  ] = row as string[] as [string, string, string, string, string, string, string, string, string, string];
  const settings = {
    marker,
    readOnly: readOnly === 'on',
    isolation: isolation.toUpperCase() as IsolationLevel,
    user,
    role,
    searchPath,
    clientEncoding,
    synchronousCommit,
    lockTimeout,
    statementTimeout,
  };
  begun.set(client, { claimId, settings });
  return settings;
}

/** With a marker that fits none, when the last transaction that the library has begun here was another claim's. */
export function settingsAtBegin(client: PoolClient, claimId: string): SessionSettings {
  const last = begun.get(client);
  if (last === undefined) {
    throw new Error('no transaction was begun on this connection');
  }
  return last.claimId === claimId ? last.settings : { ...last.settings, marker: 'of another claim' };
}

/** Only where it differs: to set the same again costs more than to compare, and search_path makes plans anew. */
const putBack = (name: string, parameter: string): string =>
  `case when current_setting('${name}') <> ${parameter}::text then set_config('${name}', ${parameter}::text, true) end`;

/**
 * What a transaction ends with, in two parts. Deferred constraints and triggers belong to the handler, and run between
 * them in the session as it has left it; but not by its time limits, nor with text in another encoding.
 */
export const SETTINGS_STATEMENTS = {
  putBackLimits: {
    id: 'put_back_limits',
    text: `select ${putBack('statement_timeout', '$1')}, ${putBack('lock_timeout', '$2')},
        ${putBack('client_encoding', '$3')}`,
  },
  putBackSession: {
    id: 'put_back_session',
    text: `select case when session_user <> $1::text then set_config('session_authorization', $1::text, true) end,
        ${putBack('role', '$2')}, ${putBack('search_path', '$3')},
        case when array_position(${COMMIT_LEVELS}, current_setting('synchronous_commit'))
            < array_position(${COMMIT_LEVELS}, $4::text)
          then set_config('synchronous_commit', $4::text, true) end,
        ${READABLE_LITERALS}`,
  },
} as const;

export function putBackLimits(settings: SessionSettings): BoundStatement {
  const { statementTimeout, lockTimeout, clientEncoding } = settings;
  return { statement: SETTINGS_STATEMENTS.putBackLimits, values: [statementTimeout, lockTimeout, clientEncoding] };
}

export function putBackSession(settings: SessionSettings): BoundStatement {
  const { user, role, searchPath, synchronousCommit } = settings;
  return { statement: SETTINGS_STATEMENTS.putBackSession, values: [user, role, searchPath, synchronousCommit] };
}
