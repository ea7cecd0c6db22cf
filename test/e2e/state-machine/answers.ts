import { expect } from '@jest/globals';
import type { RawResponse } from '../../support/raw-http.js';
import type { Answer } from './model.js';

const PROBLEMS: Record<string, (Answer & { run?: never })['kind']> = {
  '409 request-in-flight': 'in flight',
  '409 response-not-kept': 'not kept',
  '422 key-reused': 'mismatch',
  '503 store-unavailable': 'unavailable',
};

export function answerOf(response: RawResponse): Answer {
  const header = (name: string): string | undefined =>
    response.headerLines.find((line) => line.toLowerCase().startsWith(`${name}: `))?.slice(name.length + 2);
  const body = response.body.toString();
  if (header('content-type')?.startsWith('application/problem+json')) {
    const { type, status } = JSON.parse(body) as { type: string; status: number };
    const kind = PROBLEMS[`${response.status} ${type.split(':').at(-1)}`];
    if (kind === undefined) throw new Error(`An unexpected problem: ${body}`);
    expect(status).toBe(response.status);
    expect(header('retry-after') !== undefined).toBe(kind === 'in flight' || kind === 'unavailable');
    return { kind };
  }
  const run = header('x-run');
  if (run === undefined) throw new Error(`Neither a problem nor the handler's answer: ${response.raw.toString()}`);
  const kind = header('idempotency-replayed') === 'true' ? 'replayed' : 'ran';
  return { kind, run, status: response.status, body };
}
