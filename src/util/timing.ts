import { RERUN_PAUSE_MS } from '../protocol/constants.js';

export { setTimeout as delay } from 'node:timers/promises';

/** Half to one and a half of it, so that many that wait do not all wake at once. */
export function jittered(ms: number): number {
  return ms * (0.5 + Math.random());
}

/** The promise's value, or `undefined` when it takes longer. */
export function within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms, undefined);
    const stop = (): void => clearTimeout(timer);
    promise.then(stop, stop);
    promise.then(resolve, reject);
  });
}

/** Before work is run again that has met a concurrent transaction: doubles each time, so that two do not meet again. */
export function rerunPauseMs(attempt: number): number {
  return jittered(Math.min(RERUN_PAUSE_MS.first * 2 ** (attempt - 1), RERUN_PAUSE_MS.longest));
}
