import { type AnswerLike, judge, retryAfterMs } from './answers.js';
import { IdempotentRequestError, type Outcome } from './errors.js';
import { pause, within } from './waiting.js';

/** A step of an operation, for whoever watches it. `attempt` counts from 1. */
export type Progress = { key: string; attempt: number } & (
  | { type: 'attempt' }
  | { type: 'answer'; status: number; retry: boolean }
  | { type: 'no-answer'; cause: unknown }
  | { type: 'pause'; ms: number }
);

export interface AttemptOptions {
  /** So long a call goes on, in milliseconds. @default 60000 (1 min) */
  deadlineMs?: number | undefined;
  /** So long an attempt waits for its answer, in milliseconds: the next finds out what became of it. @default 15000 (15 s) */
  attemptTimeoutMs?: number | undefined;
  /** Bound of the first random pause, in milliseconds; it doubles with each. @default 250 */
  baseDelayMs?: number | undefined;
  /** Longest pause that the server has not asked for, in milliseconds. @default 10000 (10 s) */
  maxDelayMs?: number | undefined;
  /** Called with each step. What it throws is ignored. */
  onProgress?: ((progress: Progress) => void) | undefined;
}

/**
 * Sends until there is a response that is not to be retried, and whose body is here in full.
 * @throws IdempotentRequestError where there is none in time, or by this key there will be none
 */
// oxlint-disable-next-line complexity -- half of it are defaults, and every split is bytes that each page loads
export async function attempt<R extends AnswerLike>(
  send: (signal: AbortSignal) => Promise<R>,
  key: string,
  signal: AbortSignal,
  options: AttemptOptions,
  goesOn: (answer: R, text: string) => boolean = () => false,
): Promise<R> {
  const { deadlineMs = 60_000, attemptTimeoutMs = 15_000, baseDelayMs = 250, maxDelayMs = 10_000 } = options;
  const deadline = Date.now() + deadlineMs;
  let outcome: Outcome = 'not-done';
  let last: object = {};
  for (let attempts = 1, bound = baseDelayMs; ; attempts++, bound *= 2) {
    if (signal.aborted) {
      const details = { ...last, attempts: attempts - 1, cause: signal.reason };
      throw new IdempotentRequestError('aborted', outcome, key, 'aborted', details);
    }
    const report = (type: Progress['type'], step?: object): void => {
      try {
        options.onProgress?.({ key, attempt: attempts, type, ...step } as Progress);
      } catch {
        // A progress bar decides nothing.
      }
    };
    report('attempt');
    let waitMs = 0;
    try {
      const [answer, text] = await within(Math.min(attemptTimeoutMs, deadline - Date.now()), signal, async (until) => {
        const response = await send(until);
        return [response, await response.clone().text()] as const;
      });
      const { status } = answer;
      const { problem, final, ...verdict } = judge(status, text);
      const retry = verdict.retry || goesOn(answer, text);
      report('answer', { status, retry });
      waitMs = retryAfterMs(answer);
      last = { attempts, status, problem, retryAfterMs: waitMs };
      if (final) {
        throw new IdempotentRequestError('refused', final, key, problem!.detail ?? problem!.type, last);
      }
      if (!retry) {
        return answer;
      }
      // By these two it was not even begun; behind any other it may have been carried out.
      if (!/^42[59]$/.test(String(status))) {
        outcome = 'unknown';
      }
    } catch (cause) {
      // What cannot be sent at all: another attempt would be the same.
      if (cause instanceof IdempotentRequestError || /(parse|valid) URL/.test(String(cause))) {
        throw cause;
      }
      outcome = 'unknown';
      report('no-answer', { cause });
      last = { attempts, cause };
    }
    const ms = waitMs + Math.random() * Math.min(bound, maxDelayMs);
    if (!signal.aborted && Date.now() + ms >= deadline) {
      const message = `No response in ${deadlineMs} ms`;
      throw new IdempotentRequestError('deadline', outcome, key, message, last);
    }
    report('pause', { ms });
    await pause(ms, signal);
  }
}
