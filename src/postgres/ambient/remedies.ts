import type { IsolationLevel } from '../../protocol/options.js';
import { SQLSTATE, sqlStateOf } from '../sqlstate.js';

const ISOLATION_RANK: Record<IsolationLevel, number> = {
  'READ UNCOMMITTED': 0,
  'READ COMMITTED': 0, // PostgreSQL treats READ UNCOMMITTED as READ COMMITTED (manual, 13.2)
  'REPEATABLE READ': 1,
  SERIALIZABLE: 2,
};

/** @throws Error where a nested transaction asks for more than the one around it has */
export function assertIsolation(wanted: IsolationLevel | undefined, isolation: IsolationLevel): void {
  if (wanted !== undefined && ISOLATION_RANK[wanted] > ISOLATION_RANK[isolation]) {
    throw new Error(
      `A transaction with isolation level ${wanted} cannot be opened inside the ${isolation} transaction of an idempotent request: ` +
        `set @Idempotent({ isolation: '${wanted}' }) on the route.`,
    );
  }
}

/** VACUUM, CREATE INDEX CONCURRENTLY, a procedure that commits: what no transaction block takes, or no longer takes. */
export function tellRemedy(error: unknown): never {
  const code = sqlStateOf(error);
  const isRefused = code === SQLSTATE.activeSqlTransaction || code === SQLSTATE.invalidTransactionTermination;
  if (isRefused && error instanceof Error) {
    const { message } = error;
    const told =
      `${message}. This handler runs in the transaction of its idempotent request: run what cannot by ` +
      'IdempotencyService.outsideTransaction(), and set the isolation level by @Idempotent({ isolation }).';
    error.message = told;
    error.stack = error.stack?.replace(message, () => told);
  }
  throw error;
}
