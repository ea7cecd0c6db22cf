import { IdempotentRequestError } from './errors.js';

/** One operation under way, for one caller or several: it is given up when all of them have. */
export interface Flight<R> {
  readonly response: Promise<R>;
  /** @param fingerprint of the caller's request, which must be that of the first one */
  join(fingerprint: Promise<string>, signal: AbortSignal | null | undefined): Promise<R>;
}

export function begin<R extends { clone(): R }>(
  fingerprint: Promise<string>,
  carryOut: (signal: AbortSignal) => Promise<R>,
): Flight<R> {
  const controller = new AbortController();
  const response = carryOut(controller.signal);
  let callers = 0;
  return {
    response,
    join(own, signal) {
      let leave!: () => void;
      callers++;
      return new Promise<R>((resolve, reject) => {
        leave = () => {
          const { reason: cause } = signal!;
          // The last one is told by the operation itself how far it came.
          if (callers < 2) {
            controller.abort(cause);
          } else {
            reject(new IdempotentRequestError('aborted', 'unknown', '', 'aborted', { cause }));
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
    },
  };
}
