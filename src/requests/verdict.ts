import type { Writer } from '../http/response/writer.js';

/** How the handler has ended: with a value, with an error, or given up by a time limit or an outer interceptor. */
export type HandlerEnd = 'returned' | 'failed' | 'given up';

export type Verdict = 'record' | 'record the error' | 'roll back' | 'roll back and replace';

/**
 * What becomes of an operation whose handler and response have both ended. Pure, so that all of it is in one place.
 *
 * @param status of the response; by itself it only tells a server's failure, never whose answer it is
 * @param storeErrors the route's option
 */
export function verdictOn(
  handler: HandlerEnd,
  writer: Writer,
  status: number,
  storeErrors: ((status: number) => boolean) | undefined,
): Verdict {
  if (handler !== 'returned' && writer === 'handler') {
    return 'roll back and replace'; // it had answered before it failed: that answer is not the error's
  }
  if (status >= 500 || writer === 'problem' || handler === 'given up') {
    return 'roll back';
  }
  if (handler === 'returned' && writer !== 'error') {
    return 'record';
  }
  return storeErrors?.(status) === true ? 'record the error' : 'roll back';
}
