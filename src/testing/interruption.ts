import { type Failpoint, FAILPOINT_HOOK, type WithFailpointHook } from '../util/failpoint.js';

/** Before the outcome is recorded and committed, or behind that and before a byte of the response is sent. */
export type Place = 'before COMMIT' | 'after COMMIT';

/** The last place that the request passes before it fails, each behind the one before. */
const PASSES: Record<Place, readonly Failpoint[]> = {
  'before COMMIT': ['response: held'],
  'after COMMIT': ['record: committed', 'response: sending'],
};

/**
 * Has the next request of this process that gets to `place` end there, as by a crash of its process.
 *
 * @returns what became of `work`, and whether a request got there
 */
export async function interrupt<T>(
  place: Place,
  work: () => PromiseLike<T>,
): Promise<{ result: PromiseSettledResult<T>; struck: boolean }> {
  const global = globalThis as WithFailpointHook;
  if (global[FAILPOINT_HOOK] !== undefined) {
    throw new Error('Another request is being interrupted: wait for the end of one such test before the next.');
  }
  const left = [...PASSES[place]];
  global[FAILPOINT_HOOK] = (name) => {
    if (name === left[0] && left.shift() !== undefined && left.length === 0) {
      throw new Error(`nestjs-idempotency/testing ended this request ${place}, as a test has asked for.`);
    }
  };
  try {
    const [result] = await Promise.allSettled([Promise.resolve().then(work)]);
    return { result, struck: left.length === 0 };
  } finally {
    delete global[FAILPOINT_HOOK];
  }
}
