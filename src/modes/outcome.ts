import { FINGERPRINT_VERSION } from '../protocol/constants.js';
import { IdempotencyStoreUnavailableException } from '../protocol/exceptions.js';
import type { IdempotentRequest } from '../protocol/request.js';
import type { ReplayableResponse } from '../protocol/response.js';
import type { FoundKey, UnfinishedClaim } from '../postgres/statements/shared-statements.js';
import type { Claim, ClaimEnd } from './claim.js';

/** What a request finds under its key. */
export type Outcome =
  | { kind: 'claimed'; claim: Claim }
  | { kind: 'completed'; response: ReplayableResponse }
  | { kind: 'not kept'; originalStatus: number; completedAt: Date }
  | { kind: 'mismatch' }
  | { kind: 'in flight' }
  /** `steps` are those whose effect is unknown. */
  | { kind: 'interrupted'; steps: readonly string[] };

/** A way to hold a key while its handler runs. */
export interface Mode {
  /**
   * @param started is told of a claim, and answers what is to be told of its end
   * @throws IdempotencyStoreUnavailableException when the key cannot be claimed; the handler must not run then
   */
  claim(request: IdempotentRequest, started: () => ClaimEnd): Promise<Outcome>;
}

/** What a key that is taken means for a request. */
export function meaningOf(found: FoundKey, request: IdempotentRequest): Outcome {
  const { fingerprint, fingerprintVersion } = found.kind === 'completed' ? found.response : found.claim;
  if (!isSameRequest(fingerprint, fingerprintVersion, request)) {
    return { kind: 'mismatch' };
  }
  if (found.kind === 'unfinished') {
    return meaningOfUnfinished(found.claim, request.options);
  }
  const { claimId, status, headers, body, createdAt, expiresAt, traceContext } = found.response;
  return body === null
    ? { kind: 'not kept', originalStatus: status, completedAt: createdAt }
    : { kind: 'completed', response: { claimId, createdAt, expiresAt, traceContext, status, headers, body } };
}

/** One that was recorded before there was a `fingerprintSecret` is compared as if there had been one. */
function isSameRequest(
  fingerprint: Buffer,
  version: number,
  { fingerprint: own, fingerprintVersion, keyed }: IdempotentRequest,
): boolean {
  return version === fingerprintVersion
    ? fingerprint.equals(own)
    : keyed !== undefined && version === FINGERPRINT_VERSION && keyed(fingerprint).equals(own);
}

/** A claim by lease that could have been taken over, but was not: others were faster, or it must not be. */
function meaningOfUnfinished({ state, attention }: UnfinishedClaim, options: IdempotentRequest['options']): Outcome {
  const isEffectUnknown = attention?.reason === 'effect-unknown';
  if (isEffectUnknown && state !== 'running') {
    return { kind: 'interrupted', steps: attention.steps };
  }
  const waitsForOperator =
    options.mode === 'transaction'
      ? state !== 'running' // begun when the route was in lease mode: a transaction cannot go on from steps
      : state === 'interrupted' && options.onInterrupted === 'fail';
  return waitsForOperator ? { kind: 'interrupted', steps: [] } : { kind: 'in flight' };
}

/** @throws IdempotencyStoreUnavailableException always */
export function cannotClaim(cause: unknown): never {
  throw cause instanceof IdempotencyStoreUnavailableException
    ? cause
    : new IdempotencyStoreUnavailableException('The idempotency key could not be claimed.', { cause });
}
