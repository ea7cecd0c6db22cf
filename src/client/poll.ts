import { type AnswerLike, parse } from './answers.js';
import { attempt, type AttemptOptions } from './attempts.js';

/** A `Response`. */
export interface JobAnswer extends AnswerLike {
  readonly url: string;
}

export interface PollOptions<R> extends Omit<AttemptOptions, 'baseDelayMs' | 'maxDelayMs'> {
  /** So long the job may take, in milliseconds. @default 600000 (10 min) */
  deadlineMs?: number | undefined;
  /** Longest pause between two looks that the server has not asked for, in milliseconds. @default 2000 (2 s) */
  intervalMs?: number | undefined;
  /** Sends each look, with credentials for instance. @default the platform's `fetch` */
  fetch?: ((url: string, init: { signal: AbortSignal }) => Promise<R>) | undefined;
  /** Where the job is, by the body of the response. @default its header `Location` */
  location?: ((body: unknown) => string) | undefined;
  /** Whether the job goes on, by the body of a look. @default whether it is answered with 202 */
  isPending?: ((body: unknown, status: number) => boolean) | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * Follows a job that was accepted until it is done, and answers with its last state. What it meets on the way is retried as
 * the request that began it was. A response without a job (no 202) is answered as it is.
 * @throws IdempotentRequestError when the job is not done in time
 * @throws TypeError when the response does not say where the job is
 */
export async function poll<R extends JobAnswer>(response: R, options: PollOptions<R> = {}): Promise<R> {
  if (response.status !== 202) {
    return response;
  }
  const {
    fetch = globalThis.fetch as unknown as NonNullable<PollOptions<R>['fetch']>,
    isPending = (_, status) => status === 202,
    intervalMs = 2_000,
    signal = new AbortController().signal,
  } = options;
  const location = options.location?.(parse(await response.clone().text())) ?? response.headers.get('Location');
  if (!location) {
    throw new TypeError('No Location');
  }
  const url = response.url ? new URL(location, response.url).href : location;
  return attempt(
    (until) => fetch(url, { signal: until }),
    url,
    signal,
    { deadlineMs: 600_000, ...options, baseDelayMs: intervalMs, maxDelayMs: intervalMs },
    ({ status }, text) => isPending(parse(text), status),
  );
}
