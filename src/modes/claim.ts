import type { EntityManager } from 'typeorm';
import type { AfterCommitCallback } from '../util/after-commit.js';
import type { StepTools } from '../protocol/step-call.js';
import type { IdempotentRequest } from '../protocol/request.js';
import type { RecordableResponse } from '../protocol/response.js';

/** What was recorded is kept until then. */
export interface Recorded {
  readonly kind: 'recorded';
  readonly expiresAt: Date;
}

/**
 * How a record ended: committed; lost to another request that has, or is about to give, the answer of this key; or sent
 * without an answer, so that only a look at the table can tell.
 */
export type RecordResult = Recorded | { readonly kind: 'lost' | 'unanswered' };

/** How the end of a claim is told to those who wait for it. */
export interface ClaimEnd {
  /** The handler is done: from here on only the table knows what becomes of the key. */
  begun(): void;
  /** The key is free again, recorded, or left to its lease. Called once. */
  settled(recorded: boolean): void;
}

/** The right to carry out one request. Ends by exactly one of record, rollBack or abort. */
export interface Claim {
  readonly request: IdempotentRequest;

  /** Names this attempt at it. */
  readonly claimId: string;

  /** Aborted when the request is given up while its handler still runs. */
  readonly signal: AbortSignal;

  /** Starts of the handler so far, where they are counted beyond the one request. */
  readonly attempt: number | undefined;

  /** Whether it was taken from an earlier attempt whose lease had run out. */
  readonly tookOver: boolean;

  /** True while code runs that the handler started. */
  readonly isRunning: boolean;

  readonly connectionLost: boolean;

  /** Whether a cursor of its transaction is open: the end of that would cut off what is read from it. */
  readonly isBeingRead: boolean;

  /** Whether it has been given up, so that no answer of the handler can be recorded any more. */
  readonly isAborted: boolean;

  /** Why it takes so long, where the handler waits for itself. */
  readonly stall: Error | undefined;

  /** `undefined` where steps cannot be remembered. */
  readonly tools: StepTools | undefined;

  createManager(): EntityManager;

  /** Has `callback` run by {@link runAfterCommit}, unless what it was handed in by is undone. */
  afterCommit(callback: AfterCommitCallback): void;

  /** For when it is known that the record is committed and the response was let go. Errors in it are logged. */
  runAfterCommit(): Promise<void>;

  /** Runs the handler. */
  run<T>(work: () => Promise<T>): Promise<T>;

  /** Undoes what can be undone of the handler. The key stays claimed, so that an error can be recorded for it. */
  undoWrites(): Promise<void>;

  /** @throws IdempotencyException when nothing was recorded */
  record(response: RecordableResponse): Promise<RecordResult>;

  /** Gives the key free without a response, after undoing what can be undone, unless the claim has ended. */
  rollBack(): Promise<void>;

  /** Gives the request up at once, whatever its handler is busy with. A record under way tells how it ended. */
  abort(cause: Error): void;
}
