import type { Claim } from '../modes/claim.js';
import { IdempotencyReplayForbiddenException } from '../protocol/exceptions.js';
import type { RecordableResponse, ReplayableResponse } from '../protocol/response.js';
import type { KeyIdentity } from '../protocol/stored-key.js';
import { keptOf } from './kept-of.js';
import type { RunSurroundings } from './run-surroundings.js';

/** What is stored of a response: less than it was where the route says so, encrypted where the module does. */
export async function sealedResponse(
  response: RecordableResponse,
  { request: { scope, key }, claimId }: Claim,
  { options, encryption }: Pick<RunSurroundings, 'options' | 'encryption'>,
): Promise<RecordableResponse> {
  return encryption.sealResponse(await keptOf(response, options), [scope, key, claimId]);
}

/**
 * What is sent again of a recorded response, to who may see it.
 *
 * @throws IdempotencyReplayForbiddenException; IdempotencyStoreUnavailableException where it cannot be decrypted
 */
export async function openedResponse(
  found: ReplayableResponse,
  { scope, key }: KeyIdentity,
  { options, encryption, context }: Pick<RunSurroundings, 'options' | 'encryption' | 'context'>,
): Promise<ReplayableResponse> {
  const record = { scope, status: found.status, recordedAt: found.createdAt };
  if (options.authorizeReplay !== undefined && (await options.authorizeReplay(context, record)) !== true) {
    throw new IdempotencyReplayForbiddenException();
  }
  return encryption.openResponse(found, [scope, key, found.claimId]);
}
