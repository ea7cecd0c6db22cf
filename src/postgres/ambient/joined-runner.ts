import type { EntityManager } from 'typeorm';
import { POOL_WAIT_MS } from '../../protocol/constants.js';
import { IdempotencyStoreUnavailableException } from '../../protocol/exceptions.js';
import type { IsolationLevel } from '../../protocol/options.js';
import { within } from '../../util/timing.js';
import type { PostgresQueryRunner } from '../database-connection.js';
import { noteOwnTransaction, noteStatement } from './outer-transactions.js';
import { transactionControlIn } from './sql-statements.js';
import {
  HANDLE,
  handleOf,
  HANDLES,
  isMade,
  type JoinableRunner,
  madeAt,
  outsiders,
  type Surroundings,
} from './runner-handles.js';
import type { RunnerHandle, StreamArguments } from './transaction-query-runner.js';
import { type Send, shown } from './waiting-statement.js';

/**
 * What of a driver's QueryRunner is replaced, in the class that all others are derived from: whatever touches a
 * connection goes to the handle of its transaction, where it has one. The setter of `manager` is where TypeORM tells of
 * a new runner, whoever derives from its classes.
 */
export function runnerReplacements(base: PostgresQueryRunner, surroundings: Surroundings): PropertyDescriptorMap {
  const { connect, query, stream, startTransaction, commitTransaction, rollbackTransaction, release } = base;
  const send = query as (this: JoinableRunner, ...given: Parameters<Send>) => Promise<unknown>;
  const either = <T>(
    runner: JoinableRunner,
    joined: (handle: RunnerHandle) => Promise<T>,
    ordinary: () => Promise<T>,
  ): Promise<T> => {
    try {
      const handle = handleOf(runner, surroundings);
      return handle === undefined ? ordinary() : joined(handle);
    } catch (error) {
      return Promise.reject(error as Error);
    }
  };
  const methods = {
    connect(this: JoinableRunner): Promise<unknown> {
      return either(
        this,
        (handle) => handle.connect(),
        () =>
          connectOrdinarily(
            this,
            () => connect.call(this),
            () => release.call(this),
          ),
      );
    },
    query(this: JoinableRunner, ...given: Parameters<Send>): Promise<unknown> {
      return either(
        this,
        (handle) => handle.query(given, (...statement) => send.apply(this, statement)),
        () => {
          noteOrdinary(this, given[0]);
          return send.apply(this, given);
        },
      );
    },
    stream(this: JoinableRunner, ...given: StreamArguments): Promise<unknown> {
      return either<unknown>(
        this,
        (handle) => handle.stream(given, (...statement) => send.apply(this, statement)),
        () => {
          noteOrdinary(this, given[0]);
          return stream.apply(this, given);
        },
      );
    },
    startTransaction(this: JoinableRunner, isolation?: IsolationLevel): Promise<void> {
      return either(
        this,
        (handle) => handle.startTransaction(isolation),
        () => {
          if (!outsiders.has(this) && !this.isTransactionActive) {
            noteOwnTransaction(this, surroundings(this.driver)?.transaction());
          }
          return startTransaction.call(this, isolation);
        },
      );
    },
    commitTransaction(this: JoinableRunner): Promise<void> {
      return either(
        this,
        (handle) => handle.end('commit'),
        () => commitTransaction.call(this),
      );
    },
    rollbackTransaction(this: JoinableRunner): Promise<void> {
      return either(
        this,
        (handle) => handle.end('roll back'),
        () => rollbackTransaction.call(this),
      );
    },
    release(this: JoinableRunner): Promise<void> {
      if (this[HANDLE] !== undefined) {
        return this[HANDLE].release();
      }
      const transaction = this[HANDLES] && surroundings(this.driver)?.transaction();
      const joined = transaction && this[HANDLES]?.get(transaction);
      return joined === undefined ? release.call(this) : joined.leave().then(() => release.call(this));
    },
  };
  const noteOrdinary = (runner: JoinableRunner, sql: unknown): void => {
    if (typeof sql === 'string' && !outsiders.has(runner)) {
      const flow = surroundings(runner.driver);
      noteStatement(runner, sql, flow?.transaction());
      const lateWork = flow?.lateWork();
      // What TypeORM begins and ends a transaction with says nothing of what is done in it.
      if (lateWork !== undefined && transactionControlIn(sql) === undefined) {
        lateWork.warn(shown(sql), 'run on an ordinary connection', madeAt.get(runner));
      }
    }
  };
  const connectOrdinarily = (
    runner: JoinableRunner,
    connecting: () => Promise<unknown>,
    releasing: () => Promise<void>,
  ): Promise<unknown> =>
    surroundings(runner.driver)?.needsSecondConnection === true
      ? connectSoon(runner, connecting(), releasing)
      : connecting();
  const replacements = Object.getOwnPropertyDescriptors(methods) as PropertyDescriptorMap;
  replacements['manager'] = {
    configurable: true,
    get: () => undefined,
    set(this: JoinableRunner, manager: EntityManager) {
      isMade(this, manager, surroundings(this.driver), methods);
    },
  };
  for (const name of Object.keys(methods)) {
    replacements[name]!.enumerable = false;
  }
  return replacements;
}

/**
 * The pool may be empty because each request that waits for a second connection keeps its first.
 *
 * @throws IdempotencyStoreUnavailableException after a bounded wait; pg's own pool waits without bound
 */
async function connectSoon(
  runner: { isReleased: boolean },
  connecting: Promise<unknown>,
  release: () => Promise<void>,
): Promise<unknown> {
  const connected = await within(
    POOL_WAIT_MS,
    connecting.then((client) => ({ client })),
  );
  if (connected !== undefined) {
    return connected.client;
  }
  const giveBack = (): void => {
    if (runner.isReleased) {
      runner.isReleased = false; // that was before it had a connection to give back
      void release();
    }
  };
  connecting.then(giveBack, () => undefined);
  throw new IdempotencyStoreUnavailableException(
    `There was no second connection for IdempotencyService.outsideTransaction() within ${POOL_WAIT_MS} ms: ` +
      'its request keeps the first, and all others of the pool are in use. Raise `poolSize` above the number of requests that need two at a time.',
  );
}
