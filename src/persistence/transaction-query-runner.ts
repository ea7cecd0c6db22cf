import { type QueryRunner, TransactionNotStartedError } from 'typeorm';
import { TransactionRolledBackError } from '../idempotency.exceptions.js';
import type { IsolationLevel } from '../idempotency.options.js';
import type { TransactionState } from './ambient-transaction.js';
import { type PostgresQueryRunner, queryBy } from './database-connection.js';
import type { Scope } from './transaction-scope.js';

/** Statements that would end or restart the transaction behind the library's back, whatever comment is before them. */
const TRANSACTION_CONTROL =
  /^(?:[\s;]|--[^\n]*\n|\/\*(?:[^*]|\*(?!\/))*\*\/)*(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b/i;

/** What `createQueryRunner()` answered within a transaction, each with the scope its work belongs to. */
const scopesOfHandles = new WeakMap<QueryRunner, () => Scope | undefined>();

/** The scope that work of this QueryRunner belongs to; none where it is not one of a transaction that is open. */
export function scopeOfRunner(runner: QueryRunner): Scope | undefined {
  return scopesOfHandles.get(runner)?.();
}

/** Who holds it: code that asked for a runner of its own, or a manager of the transaction. */
export type RunnerOwner = 'caller' | 'transaction';

/** What TypeORM gets for a QueryRunner: the transaction's own, bound to a scope, which nobody can release. */
export function createTransactionRunner(home: Scope, owner: RunnerOwner): QueryRunner {
  const { transaction } = home;
  const { transactions, connection } = transaction;
  const { dataSource } = transactions;
  const handle = Object.create(connection.runner) as PostgresQueryRunner;
  const Broadcaster = connection.runner.broadcaster.constructor as new (runner: QueryRunner) => object;
  /** Nested transactions that this handle has started and not ended, innermost last. It ends no others. */
  const begun: Scope[] = [];
  let hasBegun = false;
  /** Where it was connected, or has started a transaction, when the request's own had committed. */
  let late: QueryRunner | undefined;
  let isConnected = false;

  const scope = (): Scope => {
    begun.at(-1)?.recogniseFlow();
    return transactions.innermost((begun.at(-1) ?? home).live());
  };

  const end = async (how: 'commit' | 'roll back'): Promise<void> => {
    if (late !== undefined) {
      await (how === 'commit' ? late.commitTransaction() : late.rollbackTransaction());
      if (!late.isTransactionActive && !isConnected) {
        await release(); // who got this handle from a manager does not do it
      }
      return;
    }
    const nested = begun.at(-1);
    if (nested === undefined) {
      if (how === 'roll back' && owner === 'caller' && !hasBegun) {
        return; // isTransactionActive told it that there was something to undo
      }
      throw new TransactionNotStartedError();
    }
    if (how === 'commit') {
      await nested.release();
    }
    begun.pop();
    if (how === 'roll back') {
      await nested.rollBack('undone');
    }
  };

  const release = async (): Promise<void> => {
    while (begun.length > 0) {
      await end('roll back').catch(() => undefined); // what nobody has committed is not kept, nor in the way
    }
    await late?.release();
    late = undefined;
    isConnected = false;
  };

  Object.assign(handle, {
    // The real runner is released when the request is over; late work must still reach execute() and be told why.
    isReleased: false,
    broadcaster: new Broadcaster(handle), // hands subscribers this handle, not the runner beneath it
    data: {},
    connect: async () => {
      switch (transaction.state) {
        case 'open':
          return connection.client;
        case 'rolled back':
          throw new TransactionRolledBackError();
        case 'committed':
          isConnected = true;
          return (late ??= dataSource.createQueryRunner()).connect();
      }
    },
    release,
    [Symbol.asyncDispose]: async () => {
      try {
        while (begun.length > 0) {
          await end('commit');
        }
        await late?.[Symbol.asyncDispose]();
      } finally {
        await release();
      }
    },
    query: async (sql: string, parameters?: unknown[], structured?: boolean) => {
      if (TRANSACTION_CONTROL.test(sql)) {
        throw transactionControlError(sql);
      }
      return late === undefined
        ? scope().query(sql, parameters, structured)
        : queryBy(late, sql, parameters, structured);
    },
    stream: async (sql: string, parameters?: unknown[], onEnd?: () => void, onError?: (error: Error) => void) => {
      if (late !== undefined || transaction.state === 'committed') {
        late ??= dataSource.createQueryRunner();
        return late.stream(sql, parameters, onEnd, onError);
      }
      const stream = await scope().stream(sql, parameters);
      if (onEnd !== undefined) {
        stream.on('end', onEnd);
      }
      if (onError !== undefined) {
        stream.on('error', onError);
      }
      return stream;
    },
    startTransaction: async (isolation?: IsolationLevel) => {
      if (late === undefined && transaction.state !== 'committed') {
        const nested = scope().begin(isolation);
        begun.push(nested);
        hasBegun = true;
        // What follows in the caller's flow belongs to the new transaction, also where it uses a repository of its own.
        transactions.presumablyGoInto(nested);
        try {
          return await nested.entered;
        } catch (error) {
          begun.splice(begun.indexOf(nested), 1);
          if ((transaction.state as TransactionState) !== 'committed') {
            throw error;
          }
        }
      }
      late ??= dataSource.createQueryRunner();
      await late.startTransaction(isolation);
    },
    commitTransaction: () => end('commit'),
    rollbackTransaction: () => end('roll back'),
  });
  Object.defineProperty(handle, 'isTransactionActive', {
    get: () =>
      late === undefined
        ? transaction.state !== 'committed' && (begun.length > 0 || owner === 'transaction' || !hasBegun)
        : late.isTransactionActive,
  });

  const manager = dataSource.createEntityManager(handle);
  // After COMMIT it is a manager like the DataSource's own.
  Object.defineProperty(manager, 'queryRunner', {
    get: () => (transaction.state === 'committed' && late === undefined ? undefined : handle),
  });
  scopesOfHandles.set(handle, () => (late === undefined ? scope() : undefined));
  Object.defineProperty(handle, 'manager', {
    get: () => {
      begun.at(-1)?.recogniseFlow();
      return manager;
    },
  });
  return handle;
}

function transactionControlError(sql: string): Error {
  return new Error(
    `"${sql.trim().split(/\s+/, 2).join(' ')}" would end the transaction of this idempotent request. ` +
      'Use DataSource.transaction() or a QueryRunner for a nested transaction; the request itself commits when its response is recorded.',
  );
}
