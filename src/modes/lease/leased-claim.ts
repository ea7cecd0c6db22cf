import { Logger } from '@nestjs/common';
import type { PoolClient } from 'pg';
import type { EntityManager } from 'typeorm';
import { AfterCommit, type AfterCommitCallback, runLogged } from '../../util/after-commit.js';
import type { Claim, ClaimEnd, RecordResult } from '../claim.js';
import { deferred } from '../../util/deferred.js';
import { failpoint } from '../../util/failpoint.js';
import { HANDLER_END_PATIENCE_MS, RELEASE_PATIENCE_MS, STORE_PATIENCE_MS } from '../../protocol/constants.js';
import { IdempotencyStepsChangedException, IdempotencyStoreUnavailableException } from '../../protocol/exceptions.js';
import type { IdempotentRequest } from '../../protocol/request.js';
import type { RecordableResponse } from '../../protocol/response.js';
import type { GrantedLease } from '../../postgres/statements/lease-claim.js';
import type { Holder } from '../../postgres/statements/lease-statements.js';
import { FencedOffError } from '../../postgres/statements/store-errors.js';
import type { LeaseStore } from '../../postgres/statements/lease-store.js';
import type { Attention } from '../../protocol/stored-key.js';
import { Aftermath } from '../../util/late-work.js';
import { requestStorage } from '../../util/request-storage.js';
import { within } from '../../util/timing.js';
import type { DurableSteps } from './durable-steps.js';
import type { LeaseHold } from './lease-hold.js';

const handlers = requestStorage<LeasedClaim>();

/** The claim on whose behalf the running code works. */
export function runningLeasedClaim(): LeasedClaim | undefined {
  return handlers.getStore();
}

function nothingWhereFencedOff(error: unknown): undefined {
  if (error instanceof FencedOffError) {
    return undefined;
  }
  throw error;
}

/**
 * A claim that holds its key by a lease, and no connection.
 *
 * It is long because how an attempt ends (recorded, given back, withdrawn, left to an operator) is decided in one place.
 */
export class LeasedClaim implements Claim {
  private static readonly logger = new Logger('Idempotency');

  readonly connectionLost = false;
  readonly isBeingRead = false;
  isAborted = false;
  private isWorking = false;
  private over = false;
  private recordFailed = false;
  private isRecorded = false;
  private readonly uponRecord = new AfterCommit();
  private attention: Attention | undefined;
  private failure: unknown;
  private readonly handlerEnded = deferred();
  private readonly aftermath: Aftermath;
  private readonly aborted = deferred<never>();

  constructor(
    readonly request: IdempotentRequest,
    private readonly lease: GrantedLease,
    private readonly hold: LeaseHold,
    readonly tools: DurableSteps,
    private readonly store: LeaseStore,
    private readonly ending: ClaimEnd,
    /** Told of what still runs when the request is given up. */
    private readonly leave: (running: Promise<void>) => void,
  ) {
    this.aftermath = new Aftermath(`${request.method} ${request.path}`);
    this.aborted.promise.catch(() => undefined); // an abort is not an error of its own
  }

  get claimId(): string {
    return this.hold.holder.claimId;
  }

  get attempt(): number {
    return this.lease.attempt;
  }

  get tookOver(): boolean {
    return this.lease.tookOver === true;
  }

  get signal(): AbortSignal {
    return this.hold.signal;
  }

  get stall(): Error | undefined {
    return this.tools.stall;
  }

  get isRunning(): boolean {
    return handlers.getStore() === this;
  }

  createManager(): EntityManager {
    return this.hold.line.connections.transactions.dataSource.manager;
  }

  /** In `ctx.transaction` it belongs to that transaction, which may commit without the request's ever being recorded. */
  afterCommit(callback: AfterCommitCallback): void {
    const step = this.hold.line.connections.transactions.transaction();
    if (step !== undefined) {
      step.afterCommit(callback);
    } else if (this.isRecorded || this.aftermath.isForgotten) {
      void runLogged(callback);
    } else {
      this.uponRecord.add(callback);
    }
  }

  runAfterCommit(): Promise<void> {
    return this.uponRecord.run();
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    this.isWorking = true;
    let failed = true;
    try {
      const value = await this.aftermath.enter(() => handlers.run(this, work));
      failed = false;
      return value;
    } catch (error) {
      this.failure = error;
      throw error;
    } finally {
      this.isWorking = false;
      if (this.isAborted) {
        await this.giveUp(failed);
      }
      this.handlerEnded.resolve();
    }
  }

  /** Nothing outside of PostgreSQL can be undone; a handler that still runs is not waited for. */
  undoWrites(): Promise<void> {
    this.uponRecord.drop();
    if (this.isWorking) {
      this.abort(new Error('the request was answered before its handler had ended'));
    }
    return Promise.resolve();
  }

  async record(response: RecordableResponse): Promise<RecordResult> {
    await Promise.race([this.tools.close(), this.aborted.promise]).catch(() => undefined);
    if (this.isAborted) {
      throw new IdempotencyStoreUnavailableException('The operation was given up before it could be recorded.');
    }
    if (this.noteDisagreement(true) === 'steps-changed') {
      throw new IdempotencyStepsChangedException();
    }
    this.ending.begun();
    await this.hold.stop();
    const record = { request: this.request, claimId: this.claimId, response };
    let expiresAt: Date | undefined;
    try {
      failpoint('record: sending');
      expiresAt = await this.hold.line
        .insist((client) => this.store.record(client, record, this.lease.executionId), STORE_PATIENCE_MS)
        .catch(nothingWhereFencedOff);
      expiresAt ??= await this.recordedUntil();
    } catch (cause) {
      this.recordFailed = true;
      throw new IdempotencyStoreUnavailableException('The response could not be recorded.', { cause });
    }
    failpoint('record: committed');
    this.tellRefusals();
    this.end(expiresAt !== undefined);
    return expiresAt === undefined ? { kind: 'lost' } : { kind: 'recorded', expiresAt };
  }

  /** Whoever has caught the refusal of a step may take it for carried out. */
  private tellRefusals(): void {
    for (const { message } of this.tools.refusals) {
      LeasedClaim.logger.error(
        `The response of ${this.request.path} was recorded although a step was refused: ${message}`,
      );
    }
  }

  async rollBack(): Promise<void> {
    if (this.over || this.isAborted) {
      return;
    }
    if (this.tools.areRunning) {
      this.abort(new Error('the handler has failed beside this step'), true);
      return;
    }
    this.ending.begun();
    await this.giveUp(true);
    this.end(false);
  }

  /**
   * The handler is told by its signal. While a step runs, and until the handler has ended or for as long as the lease lasts,
   * nobody else takes over.
   */
  abort(cause: Error, handlerFailed = false): void {
    if (this.over || this.isAborted) {
      return;
    }
    this.isAborted = true;
    this.hold.cancel(cause);
    this.aborted.reject(cause);
    this.leave(this.isWorking ? this.untilIdle() : this.giveUp(handlerFailed));
    this.end(false);
  }

  /** What a shutdown waits for: an effect, and its memory. A handler that hangs outside of its steps is not. */
  private async untilIdle(): Promise<void> {
    await this.tools.idle();
    await within(HANDLER_END_PATIENCE_MS, this.handlerEnded.promise);
  }

  /**
   * Gives the key back, once no step runs any more; but not where a person has to decide whether the operation may be
   * repeated: a handler that did not fail may have done all it had to, and an effect may have been forgotten.
   */
  private async giveUp(handlerFailed: boolean): Promise<void> {
    await this.tools.close();
    if (this.tools.waitForOperator) {
      await this.giveBack((client, holder) => this.store.interrupt(client, holder));
      return;
    }
    const isOutcomeKnown = handlerFailed && !this.recordFailed && !this.tools.lostAnEffect;
    if (isOutcomeKnown || this.request.options.onInterrupted === 'resume') {
      await this.release();
    } else {
      await this.hold.stop();
    }
  }

  /** Finished steps stay for the next attempt; without any the key is as if it had not been used. */
  private async release(): Promise<void> {
    this.noteDisagreement(false);
    const { ttlMs } = this.request.options;
    const withdrawn = this.tools.withdrawnBy(this.failure);
    this.warnOfAnswers(withdrawn);
    const end = { attention: this.attention, withdrawn };
    const nothingBegun = this.attempt === 1 && !this.tools.hasBegun && !this.recordFailed;
    await this.giveBack((client, holder) =>
      nothingBegun ? this.store.withdraw(client, holder) : this.store.release(client, holder, ttlMs, end),
    );
  }

  private async giveBack(send: (client: PoolClient, holder: Holder) => Promise<void>): Promise<void> {
    await this.hold.stop();
    failpoint('rollback: sending');
    try {
      await this.hold.line.insist((client) => send(client, this.hold.holder), RELEASE_PATIENCE_MS);
    } catch {
      // The lease expires by itself.
    }
    failpoint('rollback: done');
  }

  /** Where it was a try of our own, whose answer was lost, that has recorded the response. */
  private async recordedUntil(): Promise<Date | undefined> {
    const found = await this.hold.line.insist((client) => this.store.lookUp(client, this.request), STORE_PATIENCE_MS);
    return found?.kind === 'completed' && found.response.claimId === this.claimId
      ? found.response.expiresAt
      : undefined;
  }

  /** What was done about a failure, a compensation for instance, stays done when the step is run again. */
  private warnOfAnswers(withdrawn: readonly string[]): void {
    const answers = this.tools.doneBehind(withdrawn);
    if (answers.length > 0) {
      LeasedClaim.logger.warn(
        `Attempt ${this.attempt} at ${this.request.path} has failed with what ${quoted(withdrawn)} failed with, behind which it has finished ${quoted(answers)}. ` +
          'A retry runs the former again, and nothing else. Where the latter undo what earlier steps did, end the handler with an error of its own, which has that failure neither as itself nor as its cause: then the failure stays.',
      );
    }
  }

  /** Code that comes by its steps otherwise than earlier attempts did: said once, and left for an operator to find. */
  private noteDisagreement(isDone: boolean): Attention['reason'] | undefined {
    const found = this.attention === undefined ? this.tools.disagreement(isDone, this.failure) : undefined;
    if (found !== undefined) {
      this.attention = { detail: DISAGREEMENTS[found.reason], ...found };
      LeasedClaim.logger.warn(
        `Attempt ${this.attempt} at ${this.request.path} has passed by ${quoted(found.steps)}. ${this.attention.detail}`,
      );
    }
    return this.attention?.reason;
  }

  private end(recorded: boolean): void {
    if (!this.over) {
      this.over = true;
      this.isRecorded = recorded;
      this.aftermath.over();
      this.ending.begun();
      this.ending.settled(recorded);
    }
  }
}

function quoted(steps: readonly string[]): string {
  return steps.map((name) => `"${name}"`).join(', ');
}

const DISAGREEMENTS = {
  'steps-changed':
    'The steps of this handler have changed since an earlier attempt: a step was renamed, removed, or put in before others. ' +
    'Run what was begun with the code that began it, or let an operator resolve it, or release it to be gone on with by this code.',
  'steps-reordered': 'The order of steps has changed since an earlier attempt. No step was run again for it.',
} as const;
