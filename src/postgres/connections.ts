import type { PoolClient } from 'pg';
import { failpoint } from '../util/failpoint.js';
import { CANCEL_WAIT_MS, POOL_WAIT_MS, SECOND_CONNECTION_WAIT_MS } from '../protocol/constants.js';
import { IdempotencyStoreUnavailableException } from '../protocol/exceptions.js';
import type { AmbientTransactions } from './ambient/ambient-transactions.js';
import { type DatabaseConnection, queryBy } from './database-connection.js';
import { FencedOffError } from './statements/store-errors.js';
import { keepsConnection } from './ambient/outer-transactions.js';
import { cancelUntil } from './cancel-request.js';
import { isDefiniteFailure } from './sqlstate.js';
import type { StatementPreparation } from './statement-preparation.js';
import { delay, within } from '../util/timing.js';

/** Between two tries of a statement whose connection was lost: a database restarts in seconds. */
const RETRY_PAUSE_MS = 200;

const KEEPS_ANOTHER =
  'An interceptor, guard or middleware around @Idempotent() has begun a transaction, and keeps a connection of its own while the request needs another. ' +
  'Put @Idempotent() below the decorator that attaches it, or leave it out; or raise `poolSize` above twice the number of requests at a time.';

type Question<T> = (client: PoolClient) => Promise<T>;
type Overdue = 'cancel' | 'leave';
interface Answered<T> {
  connection: DatabaseConnection;
  result: T;
}

/** Connections of the pool for the library's own questions. Every wait is bounded. */
export class Connections {
  constructor(
    readonly transactions: AmbientTransactions,
    private readonly preparation: StatementPreparation,
  ) {}

  /** Whether a question would have to wait for somebody else's connection. */
  get areInUse(): boolean {
    return this.transactions.isPoolExhausted;
  }

  /** A connection, or an error after a bounded wait; pg's own pool waits without bound unless told otherwise. */
  async connect(): Promise<DatabaseConnection> {
    const isSecond = keepsConnection();
    const connecting = this.transactions.connect();
    let connection: DatabaseConnection | undefined;
    try {
      connection = await within(isSecond ? SECOND_CONNECTION_WAIT_MS : POOL_WAIT_MS, connecting);
    } catch (cause) {
      throw new IdempotencyStoreUnavailableException('The database cannot be reached.', { cause });
    }
    if (connection === undefined) {
      void connecting.then(
        (late) => late.release(),
        () => undefined,
      );
      throw new IdempotencyStoreUnavailableException('All database connections are in use.', {
        cause: isSecond ? new Error(KEEPS_ANOTHER) : undefined,
      });
    }
    return connection;
  }

  /**
   * One question on a connection of its own, which the caller gives back.
   *
   * @param overdue what becomes of it once nobody waits any more; what commits is left alone, since a COMMIT that waits
   * for a replica would be acknowledged without it
   * @throws what `question` throws; its connection is destroyed then
   */
  async ask<T>(question: Question<T>, overdue: Overdue = 'cancel'): Promise<Answered<T>> {
    for (;;) {
      failpoint('claim: connecting');
      const connection = await this.connect();
      failpoint('claim: connected');
      const answer = question(connection.client);
      try {
        const answered = await within(
          POOL_WAIT_MS,
          answer.then((result) => ({ connection, result })),
        );
        if (answered !== undefined) {
          failpoint('claim: answered');
          return answered;
        }
      } catch (error) {
        connection.destroy(error);
        if (this.preparation.shouldRunAgain(error)) {
          continue;
        }
        throw error;
      }
      void giveUp(connection, answer, overdue);
      throw new Error(`no answer within ${POOL_WAIT_MS} ms`);
    }
  }

  /** One question that leaves nothing behind on its connection. */
  async run<T>(question: Question<T>, overdue: Overdue = 'leave'): Promise<T> {
    const { connection, result } = await this.ask(question, overdue);
    connection.release();
    return result;
  }

  /**
   * One statement of an operator, as TypeORM runs it, and outside of any request's transaction whoever asks. It may wait
   * for a lock, so it has no time limit.
   */
  async query(sql: string, parameters?: unknown[]): Promise<unknown> {
    const connection = await this.connect();
    try {
      const rows = await queryBy(connection.runner, sql, parameters);
      connection.release();
      return rows;
    } catch (error) {
      connection.destroy(error);
      throw error;
    }
  }

  /**
   * The same as {@link run}, again and again for as long as `patienceMs` while the database cannot be reached or does not answer.
   * Only for a question that may be asked twice.
   */
  async insist<T>(
    question: (client: PoolClient) => Promise<T>,
    patienceMs: number,
    ask = (again: typeof question): Promise<T> => this.run(again),
  ): Promise<T> {
    const deadline = performance.now() + patienceMs;
    for (;;) {
      try {
        return await ask(question);
      } catch (error) {
        if (
          isDefiniteFailure(error) ||
          error instanceof FencedOffError ||
          performance.now() + RETRY_PAUSE_MS > deadline
        ) {
          throw error;
        }
        await delay(RETRY_PAUSE_MS);
      }
    }
  }
}

/** Keeps the place in the pool until the server has answered, so that no other statement joins one that runs on. */
async function giveUp(connection: DatabaseConnection, answer: Promise<unknown>, overdue: Overdue): Promise<void> {
  const cause = new Error(`no answer within ${POOL_WAIT_MS} ms`);
  const limit = setTimeout(() => connection.destroy(cause), CANCEL_WAIT_MS);
  await (overdue === 'cancel' ? cancelUntil(answer, connection) : answer).catch(() => undefined);
  clearTimeout(limit);
  connection.destroy(cause);
}
