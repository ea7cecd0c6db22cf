/** The places at which the fault suite kills the process: one at each await of the request's path. */
export const FAILPOINTS = [
  'request: accepted',
  'claim: connecting',
  'claim: connected',
  'claim: answered',
  'handler: starting',
  'handler: returned',
  'handler: failed',
  'response: held',
  'record: sending',
  'record: sent',
  'record: committed',
  'response: sending',
  'response: sent',
  'rollback: sending',
  'rollback: done',
  'replay: sending',
  'replay: sent',
  'outcome: looking',
] as const;

/** Those that only a request in lease mode passes. */
export const LEASE_FAILPOINTS = [
  'lease: claimed',
  'lease: renewing',
  'step: starting',
  'step: ran',
  'step: recorded',
] as const;

export type Failpoint = (typeof FAILPOINTS)[number] | (typeof LEASE_FAILPOINTS)[number];

export const FAILPOINT_HOOK = Symbol.for('nestjs-idempotency.failpoint');

/** Where a test puts its function. */
export type WithFailpointHook = { [FAILPOINT_HOOK]?: (name: Failpoint) => void };

/** Does nothing, unless a test has put a function at `globalThis[Symbol.for('nestjs-idempotency.failpoint')]`. */
export function failpoint(name: Failpoint): void {
  (globalThis as WithFailpointHook)[FAILPOINT_HOOK]?.(name);
}
