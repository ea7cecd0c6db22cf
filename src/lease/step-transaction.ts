import type { EntityManager } from 'typeorm';
import type { Connections } from '../connections.js';
import { failpoint } from '../failpoint.js';
import { IdempotencyStoreUnavailableException } from '../idempotency.exceptions.js';
import { POOL_WAIT_MS, TRANSACTION_TIMEOUT_SLACK_MS } from '../idempotency.constants.js';
import type { RouteOptions } from '../idempotency.options.js';
import { AmbientTransaction } from '../persistence/ambient-transaction.js';
import type { DatabaseConnection } from '../persistence/database-connection.js';
import { FencedOffError, type LeaseStore, type NewStep } from '../persistence/lease-store.js';
import { isDefiniteFailure } from '../persistence/sqlstate.js';
import type { LeaseHold } from './lease-hold.js';
import { outcomeAsJson } from './step-outcome.js';

/** A step whose writes and whose memory commit together. */
export class StepTransaction {
  constructor(
    private readonly hold: LeaseHold,
    private readonly store: LeaseStore,
    private readonly connections: Connections,
    private readonly options: Pick<RouteOptions, 'isolation' | 'timeoutMs'>,
  ) {}

  /**
   * Answers the outcome that was stored.
   *
   * @throws FencedOffError, or whatever `work` throws; nothing is kept then
   */
  async run<T>(step: Omit<NewStep, 'outcome'>, work: (manager: EntityManager) => Promise<T>): Promise<string> {
    const isolation = this.options.isolation ?? this.connections.transactions.defaultIsolation;
    const locksTheKey = isolation === 'REPEATABLE READ' || isolation === 'SERIALIZABLE';
    return locksTheKey
      ? this.hold.withoutRenewals(() => this.carryOut(isolation, step, work))
      : this.carryOut(isolation, step, work);
  }

  private async carryOut<T>(
    isolation: RouteOptions['isolation'],
    step: Omit<NewStep, 'outcome'>,
    work: (manager: EntityManager) => Promise<T>,
  ): Promise<string> {
    const { store, options } = this;
    const limitMs = options.timeoutMs + TRANSACTION_TIMEOUT_SLACK_MS;
    const { connection } = await this.connections
      .ask((client) => store.begin(client, step, isolation, limitMs))
      .catch(cannotBegin);
    const transaction = new AmbientTransaction(
      this.connections.transactions,
      connection,
      isolation ?? 'READ COMMITTED',
    );
    let committing = false;
    let isOverdue = false;
    // PostgreSQL ends it by then, but a network that swallows the answers of a statement would swallow that, too.
    const limit = setTimeout(() => {
      isOverdue = true;
      connection.destroy(new Error(`the transaction of step "${step.name}" took more than ${limitMs} ms`));
    }, limitMs);
    try {
      const result = await transaction.run(() => work(transaction.createManager()));
      const outcome = outcomeAsJson(step.name, { returned: result });
      failpoint('step: ran');
      committing = true;
      await transaction.commit((client) => store.commitStep(client, { ...step, outcome }));
      connection.release();
      await transaction.runAfterCommit();
      return outcome;
    } catch (error) {
      const isLost = connection.broken || isOverdue;
      if (committing) {
        transaction.state = 'rolled back';
        connection.destroy(error);
      } else {
        await this.rollBack(transaction, connection);
      }
      if (committing && !isDefiniteFailure(error) && !(error instanceof FencedOffError)) {
        // Whether it took place is for the next attempt to see: its claim waits for the end of this transaction.
        throw new IdempotencyStoreUnavailableException('The connection was lost while a step was committed.', {
          cause: error,
        });
      }
      if (isLost && !committing) {
        throw new IdempotencyStoreUnavailableException('The connection to the database was lost in a step.', {
          cause: error,
        });
      }
      throw error;
    } finally {
      clearTimeout(limit);
    }
  }

  private async rollBack(transaction: AmbientTransaction, connection: DatabaseConnection): Promise<void> {
    const limit = setTimeout(() => connection.destroy(new Error('the rollback was not answered')), POOL_WAIT_MS);
    try {
      await transaction.refuseFurtherWork();
      await this.store.rollback(connection.client);
      connection.release();
    } catch (error) {
      connection.destroy(error);
    } finally {
      clearTimeout(limit);
    }
  }
}

/** @throws FencedOffError, IdempotencyStoreUnavailableException, or what the server itself objects to */
function cannotBegin(error: unknown): never {
  throw error instanceof FencedOffError ||
    error instanceof IdempotencyStoreUnavailableException ||
    isDefiniteFailure(error)
    ? error
    : new IdempotencyStoreUnavailableException('The transaction of a step could not be begun.', { cause: error });
}
