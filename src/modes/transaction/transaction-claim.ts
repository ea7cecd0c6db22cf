import type { PoolClient } from 'pg';
import type { EntityManager } from 'typeorm';
import type { AfterCommitCallback } from '../../util/after-commit.js';
import type { Claim, ClaimEnd, RecordResult } from '../claim.js';
import { failpoint } from '../../util/failpoint.js';
import {
  IdempotencyConflictException,
  IdempotencyException,
  IdempotencyStoreUnavailableException,
  IdempotencyTransactionFailedException,
} from '../../protocol/exceptions.js';
import type { IdempotentRequest, NewRecord } from '../../protocol/request.js';
import type { RecordableResponse } from '../../protocol/response.js';
import type { AmbientTransaction } from '../../postgres/ambient/ambient-transaction.js';
import { KeyAlreadyRecordedError, TransactionEndedByHandlerError } from '../../postgres/statements/store-errors.js';
import type { KeyStore } from '../../postgres/statements/key-store.js';
import { isRetryable, refusesRow, SQLSTATE, sqlStateOf } from '../../postgres/sqlstate.js';

/** A claim that holds its key by a transaction, in which the handler runs. */
export class TransactionClaim implements Claim {
  readonly attempt = undefined;
  readonly tools = undefined;
  readonly tookOver = false;
  private controller: AbortController | undefined;
  private isSettled = false;

  constructor(
    readonly request: IdempotentRequest,
    readonly claimId: string,
    private readonly transaction: AmbientTransaction,
    private readonly store: KeyStore,
    private readonly end: ClaimEnd,
  ) {}

  /** Runs the handler so that all it does with the DataSource joins the transaction. */
  run<T>(work: () => Promise<T>): Promise<T> {
    return this.transaction.carryOut(work);
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
      this.controller.abort(this.transaction.abortedBecause);
    }
    return this.controller.signal;
  }

  get isAborted(): boolean {
    return this.transaction.abortedBecause !== undefined;
  }

  get stall(): Error | undefined {
    return this.transaction.stall;
  }

  get isBeingRead(): boolean {
    return this.transaction.openCursors > 0;
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
    if (transaction.isOver) {
      throw new IdempotencyStoreUnavailableException('The operation was rolled back before it could be recorded.');
    }
    this.end.begun();
    const record = { request: this.request, claimId: this.claimId, response };
    const undoWrites = transaction.state === 'rolled back';
    let expiresAt!: Date;
    const answer = await transaction.commit(async (client) => {
      expiresAt = await this.send(client, record, undoWrites);
    });
    this.settle();
    switch (answer.kind) {
      case 'committed':
        failpoint('record: committed');
        await transaction.announceCommit();
        return { kind: 'recorded', expiresAt };
      case 'unknown':
        return { kind: 'unanswered' };
      case 'refused':
        if (answer.error instanceof KeyAlreadyRecordedError) {
          return { kind: 'lost' };
        }
        throw recordFailure(answer.error);
    }
  }

  /** Undoes all that the handler did in the database, unless the claim has ended; further statements are refused. */
  async rollBack(): Promise<void> {
    if (this.transaction.isOver) {
      return;
    }
    this.end.begun();
    await this.transaction.rollBack();
    this.settle();
  }

  /** Ends it at once, whatever the connection is busy with. A record under way tells how it ended. The key is free soon after. */
  abort(cause: Error): void {
    if (this.transaction.abort(cause)) {
      this.controller?.abort(cause);
      void this.settleOnceRolledBack();
    }
  }

  private async settleOnceRolledBack(): Promise<void> {
    await this.transaction.rollBack();
    this.settle();
  }

  private settle(): void {
    if (!this.isSettled) {
      this.isSettled = true;
      this.end.begun();
      this.end.settled(this.transaction.isCommitted);
    }
  }

  private send(client: PoolClient, record: NewRecord, undoWrites: boolean): Promise<Date> {
    failpoint('record: sending');
    const recorded = this.store.record(client, record, undoWrites);
    failpoint('record: sent');
    return recorded;
  }
}

/** The answer to a transaction that was not committed. */
function recordFailure(error: unknown): IdempotencyException {
  if (error instanceof IdempotencyException) {
    return error; // it was given up before anything was sent
  }
  const options = { cause: error };
  if (error instanceof TransactionEndedByHandlerError) {
    return new IdempotencyTransactionFailedException(
      'The handler ended the transaction of its request by a statement of its own, so the response could not be recorded with its writes.',
      options,
    );
  }
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
  if (refusesRow(code)) {
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
