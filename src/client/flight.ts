import { IdempotentRequestError } from './errors.js';

/**
 * Joins one operation under way, for one caller or several: it is given up when all of them have.
 * @param fingerprint of the caller's request, which must be that of the first one
 */
export type Join<R> = (fingerprint: Promise<string>, signal: AbortSignal | null | undefined) => Promise<R>;

export function begin<R extends { clone(): R }>(
  fingerprint: Promise<string>,
  carryOut: (signal: AbortSignal) => Promise<R>,
  onLanded: () => void,
): Join<R> {
  const controller = new AbortController();
  const response = carryOut(controller.signal);
  response.then(onLanded, onLanded);
  let callers = 0;
  return (own, signal) => {
    let leave!: () => void;
    callers++;
    return new Promise<R>((resolve, reject) => {
      leave = () => {
        // The last one is told by the operation itself how far it came.
        if (callers < 2) {
          controller.abort(signal!.reason);
        } else {
          reject(new IdempotentRequestError('aborted', 'unknown', '', 'aborted', { cause: signal!.reason }));
        }
      };
      signal?.addEventListener('abort', leave);
      if (signal?.aborted) {
        leave();
      }
      Promise.all([own, fingerprint])
        .then(([mine, first]) => {
          if (mine === first) {
            return response;
          }
          throw new IdempotentRequestError('payload-changed', 'unknown', '', 'payload-changed');
        })
        .then((answer) => resolve(answer.clone()), reject);
    }).finally(() => {
      callers--;
      signal?.removeEventListener('abort', leave);
    });
  };
}
