import type { EntityManager } from 'typeorm';
import { failpoint } from '../../util/failpoint.js';
import { IdempotencyStoreUnavailableException } from '../../protocol/exceptions.js';
import { TRANSACTION_TIMEOUT_SLACK_MS } from '../../protocol/constants.js';
import type { RouteOptions } from '../../protocol/options.js';
import { AmbientTransaction } from '../../postgres/ambient/ambient-transaction.js';
import { FencedOffError } from '../../postgres/statements/store-errors.js';
import { type LeaseStore, isOneSnapshot } from '../../postgres/statements/lease-store.js';
import type { NewStep } from '../../postgres/statements/lease-statements.js';
import { keepsConnection } from '../../postgres/ambient/outer-transactions.js';
import { OwnedTransaction } from '../../postgres/owned-transaction.js';
import { settingsAtBegin } from '../../postgres/session-settings.js';
import { isDefiniteFailure, SQLSTATE, sqlStateOf } from '../../postgres/sqlstate.js';
import { now } from './moment.js';
import type { StepHold } from './step-hold.js';
import { outcomeAsJson } from './step-outcome.js';

/** A step whose writes and whose memory commit together. */
export class StepTransaction {
  private transaction: AmbientTransaction | undefined;

  constructor(
    private readonly hold: StepHold,
    private readonly store: LeaseStore,
    private readonly options: Pick<RouteOptions, 'isolation' | 'timeoutMs'>,
    private readonly route: string,
  ) {}

  /** What in it waits for what, where it most likely waits for itself. */
  get stall(): Error | undefined {
    return this.transaction?.stall;
  }

  /**
   * Answers the outcome that was stored.
   *
   * @throws FencedOffError, TransactionEndedByHandlerError, or whatever `work` throws; nothing is kept then
   */
  async run<T>(step: Omit<NewStep, 'outcome'>, work: (manager: EntityManager) => Promise<T>): Promise<string> {
    const isolation = this.options.isolation ?? this.hold.connections.transactions.defaultIsolation;
    return isOneSnapshot(isolation)
      ? this.hold.whileLocked(() => this.carryOut(isolation, step, work, true))
      : this.carryOut(isolation, step, work, false);
  }

  private async carryOut<T>(
    isolation: RouteOptions['isolation'],
    step: Omit<NewStep, 'outcome'>,
    work: (manager: EntityManager) => Promise<T>,
    locksTheKey: boolean,
  ): Promise<string> {
    const limitMs = this.options.timeoutMs + TRANSACTION_TIMEOUT_SLACK_MS;
    const transaction = (this.transaction = await this.begin(isolation, step, limitMs));
    // PostgreSQL ends it by then, but a network that swallows the answers of a statement would swallow that, too.
    const limit = setTimeout(
      () => transaction.abort(new Error(`the transaction of step "${step.name}" took more than ${limitMs} ms`)),
      limitMs,
    );
    try {
      const outcome = await perform(transaction, step.name, work);
      await this.commit(transaction, { ...step, outcome }, locksTheKey);
      await transaction.runAfterCommit();
      return outcome;
    } finally {
      clearTimeout(limit);
    }
  }

  private async begin(
    isolation: RouteOptions['isolation'],
    step: Omit<NewStep, 'outcome'>,
    limitMs: number,
  ): Promise<AmbientTransaction> {
    const { store } = this;
    const { connections, hasKey } = this.hold;
    if (connections.areInUse && keepsConnection()) {
      throw new IdempotencyStoreUnavailableException('All database connections are in use.', {
        cause: new Error(
          `Step "${step.name}" of ${this.route} is a ctx.transaction() inside of DataSource.transaction(): it needs a second connection while that keeps its own, and there is none. Call it outside of that transaction, or do its writes there.`,
        ),
      });
    }
    const { connection } = await connections
      .ask((client) => store.begin(client, step, isolation, limitMs, hasKey))
      .catch(cannotBegin);
    const transaction = new OwnedTransaction(connection, store);
    return new AmbientTransaction(
      connections.transactions,
      transaction,
      settingsAtBegin(connection.client, step.claimId).isolation,
      `step "${step.name}" of ${this.route}`,
    );
  }

  /** Whoever waits for the key's row gets it with the COMMIT, and must not find a lease that has run out meanwhile. */
  private async commit(transaction: AmbientTransaction, step: NewStep, renews: boolean): Promise<void> {
    const sealed = this.hold.sealed(step);
    let askedAt = now();
    const answer = await transaction.commit((client) => {
      askedAt = now();
      return this.hold.hasKey
        ? this.store.commitStep(client, sealed, renews ? this.hold : undefined)
        : this.store.commitUnrecorded(client, step);
    });
    switch (answer.kind) {
      case 'committed':
        if (renews) {
          this.hold.renewed(askedAt);
        }
        return;
      case 'unknown':
        // Whether it took place is for the next attempt to see: its claim waits for the end of this transaction.
        throw new IdempotencyStoreUnavailableException('The connection was lost while a step was committed.', {
          cause: answer.error,
        });
      case 'refused':
        throw transaction.abortedBecause === undefined ? withRemedy(answer.error, step.name) : lostInStep(answer.error);
    }
  }
}

/** The outcome of the step's function, as JSON; without one everything is undone. */
async function perform<T>(
  transaction: AmbientTransaction,
  name: string,
  work: (manager: EntityManager) => Promise<T>,
): Promise<string> {
  try {
    const returned = await transaction.carryOut(() => work(transaction.createManager()));
    const outcome = outcomeAsJson(name, { returned });
    failpoint('step: ran');
    return outcome;
  } catch (error) {
    const isLost = transaction.connection.broken || transaction.abortedBecause !== undefined;
    await transaction.rollBack();
    throw isLost ? lostInStep(error) : error;
  }
}

/** Of a transaction that only looks as if it could commit, PostgreSQL says no more than that it is aborted. */
function withRemedy(error: unknown, step: string): unknown {
  return sqlStateOf(error) === SQLSTATE.inFailedSqlTransaction
    ? new Error(
        `A statement of step "${step}" failed and the step went on: its transaction could only be rolled back. ` +
          'Let the error through, or put the statement that may fail into a DataSource.transaction() of its own.',
        { cause: error },
      )
    : error;
}

function lostInStep(cause: unknown): IdempotencyStoreUnavailableException {
  return new IdempotencyStoreUnavailableException('The connection to the database was lost in a step.', { cause });
}

/** @throws FencedOffError, IdempotencyStoreUnavailableException, or what the server itself objects to */
function cannotBegin(error: unknown): never {
  throw error instanceof FencedOffError ||
    error instanceof IdempotencyStoreUnavailableException ||
    isDefiniteFailure(error)
    ? error
    : new IdempotencyStoreUnavailableException('The transaction of a step could not be begun.', { cause: error });
}
