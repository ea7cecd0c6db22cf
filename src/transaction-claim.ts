import type { EntityManager } from 'typeorm';
import type { AfterCommitCallback } from './after-commit.js';
import type { Claim, ClaimEnd, RecordResult } from './claim.js';
import { failpoint } from './failpoint.js';
import { POOL_WAIT_MS } from './idempotency.constants.js';
import {
  IdempotencyConflictException,
  IdempotencyException,
  IdempotencyStoreUnavailableException,
  IdempotencyTransactionFailedException,
} from './idempotency.exceptions.js';
import type { AmbientTransaction } from './persistence/ambient-transaction.js';
import {
  type ClaimedRequest,
  KeyAlreadyRecordedError,
  type KeyStore,
  type NewRecord,
  type RecordableResponse,
  TransactionEndedByHandlerError,
} from './persistence/key-store.js';
import { isDefiniteFailure, isRetryable, SQLSTATE, sqlStateOf } from './persistence/sqlstate.js';

/** A claim that holds its key by a transaction, in which the handler runs. */
export class TransactionClaim implements Claim {
  readonly attempt = undefined;
  readonly tools = undefined;
  private recording = false;
  private sent = false;
  /** Once true, the connection may be somebody else's. */
  private over = false;
  private stopWaiting: ((cause: Error) => void) | undefined;
  private abortedBecause: Error | undefined;
  private controller: AbortController | undefined;

  constructor(
    readonly request: ClaimedRequest,
    private readonly transaction: AmbientTransaction,
    private readonly store: KeyStore,
    private readonly end: ClaimEnd,
  ) {}

  /** Runs the handler so that all it does with the DataSource joins the transaction. */
  run<T>(work: () => T): T {
    return this.transaction.run(work);
  }

  /** True while code runs that the handler started. */
  get isRunning(): boolean {
    return this.transaction.transactions.transaction() === this.transaction;
  }

  createManager(): EntityManager {
    return this.transaction.createManager();
  }

  afterCommit(callback: AfterCommitCallback): void {
    this.transaction.afterCommit(callback);
  }

  runAfterCommit(): Promise<void> {
    return this.transaction.runAfterCommit();
  }

  /** Made when it is asked for: hardly a handler of a short transaction does. */
  get signal(): AbortSignal {
    this.controller ??= new AbortController();
    if (this.isAborted) {
      this.controller.abort(this.abortedBecause);
    }
    return this.controller.signal;
  }

  get isAborted(): boolean {
    return this.abortedBecause !== undefined;
  }

  get connectionLost(): boolean {
    return this.transaction.connection.broken;
  }

  /** Refuses all further statements of the handler. The key stays claimed, so that an error can be recorded for it. */
  async undoWrites(): Promise<void> {
    await this.transaction.refuseFurtherWork();
  }

  /**
   * Records the response and commits it with the handler's writes; after {@link undoWrites}, without them.
   *
   * @throws IdempotencyException when nothing was committed
   */
  async record(response: RecordableResponse): Promise<RecordResult> {
    const { transaction } = this;
    const record = { request: this.request, response };
    if (this.over) {
      throw new IdempotencyStoreUnavailableException('The operation was rolled back before it could be recorded.');
    }
    this.recording = true;
    this.end.begun();
    try {
      if (transaction.state === 'rolled back') {
        await this.send(record, true);
      } else {
        await this.unlessAborted(transaction.commit(() => this.send(record, false)));
      }
      failpoint('record: committed');
      this.over = true;
      transaction.connection.release();
      return 'recorded';
    } catch (error) {
      this.over = true;
      transaction.state = 'rolled back';
      transaction.connection.destroy(error);
      return this.explain(error);
    } finally {
      this.settle();
    }
  }

  /** Undoes all that the handler did in the database, unless the claim has ended; further statements are refused. */
  async rollBack(): Promise<void> {
    const { transaction } = this;
    if (this.over) {
      return;
    }
    this.over = true;
    this.end.begun();
    const { connection } = transaction;
    // A network that swallows the ROLLBACK must not keep the key in flight, nor the connection out of the pool.
    const limit = setTimeout(() => connection.destroy(new Error('the rollback was not answered')), POOL_WAIT_MS);
    try {
      await transaction.refuseFurtherWork();
      failpoint('rollback: sending');
      await this.store.rollback(connection.client);
      failpoint('rollback: done');
      connection.release();
    } catch (error) {
      connection.destroy(error);
    } finally {
      clearTimeout(limit);
      this.settle();
    }
  }

  /** Ends it at once, whatever the connection is busy with, by closing it. A record under way tells how it ended. */
  abort(cause: Error): void {
    const { transaction } = this;
    if (this.over) {
      return;
    }
    this.abortedBecause = cause;
    this.controller?.abort(cause);
    transaction.state = 'rolled back';
    transaction.connection.destroy(cause);
    this.stopWaiting?.(cause);
    if (!this.recording) {
      this.over = true;
      this.settle();
    }
  }

  /** What `work` gives, but no longer waited for once the claim is aborted. */
  private unlessAborted<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.stopWaiting = reject;
      work.then(resolve, reject);
    });
  }

  private settle(): void {
    this.end.begun();
    this.end.settled(this.transaction.state === 'committed');
  }

  private send(record: NewRecord, undoWrites: boolean): Promise<void> {
    failpoint('record: sending');
    this.sent = true;
    const recorded = this.store.record(this.transaction.connection.client, record, undoWrites);
    failpoint('record: sent');
    return recorded;
  }

  private explain(error: unknown): RecordResult {
    if (error instanceof KeyAlreadyRecordedError) {
      return 'lost';
    }
    if (error instanceof IdempotencyException && !this.sent) {
      throw error;
    }
    if (error instanceof TransactionEndedByHandlerError) {
      throw new IdempotencyTransactionFailedException(
        'The handler ended the transaction of its request by a statement of its own, so the response could not be recorded with its writes.',
        { cause: error },
      );
    }
    if (this.sent && !isDefiniteFailure(error)) {
      return 'unanswered';
    }
    throw recordFailure(error);
  }
}

/** The answer to a transaction that PostgreSQL refused to commit. */
function recordFailure(error: unknown): IdempotencyException {
  const options = { cause: error };
  const code = sqlStateOf(error);
  if (isRetryable(error)) {
    return new IdempotencyConflictException(options);
  }
  if (code === SQLSTATE.inFailedSqlTransaction) {
    return new IdempotencyTransactionFailedException(
      'A statement of the handler failed and the handler went on: the transaction could only be rolled back. Let the error through, or put the statement that may fail into a DataSource.transaction() of its own.',
      options,
    );
  }
  if (code?.startsWith('23') || code === 'P0001') {
    return new IdempotencyTransactionFailedException(
      'A deferred constraint or trigger refused the writes of the handler when they were to be committed.',
      options,
    );
  }
  return new IdempotencyStoreUnavailableException(
    'The response could not be recorded, so the operation was rolled back.',
    options,
  );
}
