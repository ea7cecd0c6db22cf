import { createHash } from 'node:crypto';
import { stepId, type StepOptions } from '../../protocol/step-call.js';

/**
 * The key to hand to a provider's own idempotency header: the same for every attempt at `step` of the operation, and
 * for no other. A UUID of version 8, whose bits come from SHA-256 (RFC 9562, section 5.8): some providers take nothing
 * but UUIDs.
 *
 * @param usedUp how many keys of the step the provider has answered with an error that it keeps
 */
export function downstreamKey(
  scope: string,
  key: string,
  step: string,
  options?: Pick<StepOptions, 'key'>,
  usedUp = 0,
): string {
  const salt = usedUp === 0 ? [] : [usedUp];
  const bytes = createHash('sha256')
    .update(JSON.stringify(['nestjs-idempotency downstream key', scope, key, stepId(step, options), ...salt]))
    .digest()
    .subarray(0, 16);
  bytes[6] = (bytes[6]! & 0x0f) | 0x80;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = bytes.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}
