import type { Outcome, Problem } from './errors.js';

/** As much of a `Response` as is needed. */
export interface AnswerLike {
  readonly status: number;
  readonly headers: { get(name: string): string | null };
  clone(): { text(): Promise<string> };
}

export interface Verdict {
  problem?: Problem | undefined;
  /** What a problem says of the operation that takes the place of a response. */
  final?: Outcome | undefined;
  retry: boolean;
}

/** @param text the body */
export function judge(status: number, text: string): Verdict {
  const body = status < 400 ? undefined : (parse(text) as Problem | null | undefined);
  const problem = typeof body?.type === 'string' ? body : undefined;
  // What comes before it is the server's `problemBaseUrl`.
  const slug = problem?.type.split(/[:/#]/).pop() ?? '';
  const final = finalOutcome(slug);
  const retry = !final && (/^(408|42[59]|5..)$/.test(`${status}`) || (status === 409 && IN_FLIGHT.test(slug)));
  return { problem, final, retry };
}

const IN_FLIGHT = /^(request-in-flight|lease-lost)$/;

/** What a problem that takes the place of a response says of the operation. */
function finalOutcome(slug: string): Outcome | undefined {
  if (/^(key-(missing|malformed|reused)|media-type-unsupported)$/.test(slug)) {
    return 'not-done';
  }
  if (/^(outcome-unknown|steps-changed)$/.test(slug)) {
    return 'unknown';
  }
  return slug === 'response-not-kept' ? 'done' : undefined;
}

/** Undefined where it is no JSON. */
export function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** In milliseconds, 0 where it says nothing. A date is taken by the server's own, since the client's clock may be wrong. */
export function retryAfterMs({ headers }: AnswerLike): number {
  // `null` is neither a number nor a date.
  const value = headers.get('Retry-After') as string;
  const since = Date.parse(headers.get('Date') as string) || Date.now();
  const ms = /^\d+$/.test(value) ? Number(value) * 1_000 : Date.parse(value) - since;
  return ms > 0 ? ms : 0;
}
