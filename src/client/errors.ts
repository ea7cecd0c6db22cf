/**
 * What is known of the operation.
 * - `done`: it was carried out.
 * - `not-done`: it was not, by this key.
 * - `unknown`: it may have been. Only the same key finds out.
 */
export type Outcome = 'done' | 'not-done' | 'unknown';

/**
 * Why there is no response.
 * - `deadline`: none came in time.
 * - `aborted`: the caller's signal ended it.
 * - `refused`: the server has said by a problem document that this key leads to no response.
 * - `payload-changed`: the operation has not settled, and was begun with another request.
 * - `key-expired`: it has not settled, and began so long ago that the server may have forgotten its key.
 */
export type Reason = 'deadline' | 'aborted' | 'refused' | 'payload-changed' | 'key-expired';

/** A problem document (RFC 9457). */
export interface Problem {
  type: string;
  detail?: string;
  [member: string]: unknown;
}

/** There is no response. Whatever else the application says is one, a declined payment as well. */
export class IdempotentRequestError extends Error {
  declare readonly reason: Reason;
  declare readonly outcome: Outcome;
  declare readonly key: string;
  /** How often this call has sent the request. */
  declare readonly attempts?: number;
  /** Status of the last answer, if there was one. */
  declare readonly status?: number;
  /** The last answer, if it was a problem document. */
  declare readonly problem?: Problem;
  /** How long the server asked to wait before the next attempt, in milliseconds; 0 where it did not. */
  declare readonly retryAfterMs?: number;
  declare readonly cause?: unknown;
  /** Whether the same call, with the same key, may lead to a response later. */
  declare readonly transient: boolean;

  constructor(reason: Reason, outcome: Outcome, key: string, message: string, details?: object) {
    super(message);
    const transient = reason === 'deadline' || reason === 'aborted';
    Object.assign(this, { name: 'IdempotentRequestError', reason, outcome, key, transient }, details);
  }
}
