import { AssertionError } from 'node:assert';
import { REPLAYED_HEADER } from '../protocol/constants.js';
import { type Answer, answerOf, type ClientResponse, described, difference } from './answer.js';

/** An operation, and how to tell its effects. */
export interface Operation {
  /**
   * Sends the request, with the same key whenever it is called, and gives the response of supertest, `inject()` or
   * `fetch()`. It must not expect a status by itself. Each test takes a new key.
   */
  send: () => PromiseLike<ClientResponse>;

  /** How many effects of the kind there are by now: `() => payments.count()`. One execution must add one. */
  countEffects: () => number | PromiseLike<number>;

  /** Headers that a replay must repeat, beside those that describe the body, and `Location`. @default no others */
  headers?: string[];

  /** As the option of the route. @default 'Idempotency-Replayed' */
  replayedHeader?: string;
}

const REPEATED_HEADERS = ['Content-Type', 'Content-Encoding', 'Content-Language', 'Content-Disposition', 'Location'];

export async function answerTo({ send }: Operation, which: string): Promise<Answer> {
  let response: ClientResponse;
  try {
    response = await send();
  } catch (cause) {
    const hint =
      (cause as { code?: unknown } | null)?.code === 'ECONNREFUSED'
        ? ' With supertest call `await app.listen(0)` before: a server that it starts for one request is closed while others are on their way.'
        : ' `send` must give the response whatever its status is.';
    const error = failure(`${which} got no answer: ${String(cause)}.${hint}`, String(cause), 'a response');
    throw Object.assign(error, { cause });
  }
  return answerOf(response);
}

/** The answer to a request that is to be carried out. */
export async function executed(operation: Operation, which: string): Promise<Answer> {
  const answer = await answerTo(operation, which);
  if (isReplay(answer, operation)) {
    throw failure(
      `${which} was answered from a record, so it was not carried out: take a new key for each test.`,
      described(answer),
      'no replay',
    );
  }
  assertSuccess(answer, which);
  return answer;
}

export function assertSuccess(answer: Answer, which: string): void {
  if (answer.status >= 500 || [400, 409, 415, 422].includes(answer.status)) {
    throw failure(`${which} failed: ${described(answer)}`, answer.status, 'a status of success');
  }
}

export async function expectReplayOf(first: Answer, operation: Operation, which: string): Promise<void> {
  const second = await answerTo(operation, which);
  assertReplay(second, operation, which);
  assertRepeats(first, second, operation, which);
}

export function assertReplay(answer: Answer, operation: Operation, which: string): void {
  if (!isReplay(answer, operation)) {
    const advice =
      answer.status === 422
        ? 'it was taken for another request: `send` must repeat method, path, query and body, and send the same key'
        : 'the route must be @Idempotent(), `send` send the same key, and an error be one that `storeErrors` takes';
    throw failure(
      `${which} was not answered by a replay (no ${replayedHeader(operation)} header): ${advice}. It was answered: ${described(answer)}`,
      described(answer),
      'a replay',
    );
  }
}

export function assertRepeats(first: Answer, second: Answer, { headers = [] }: Operation, which: string): void {
  const found = difference(first, second, [...REPEATED_HEADERS, ...headers]);
  if (found !== undefined) {
    throw failure(
      `${which} was answered by another ${found.what} than the first: ${JSON.stringify(found.actual)} in place of ${JSON.stringify(found.expected)}.`,
      found.actual,
      found.expected,
    );
  }
}

export function isReplay({ headers }: Answer, operation: Operation): boolean {
  return headers.get(replayedHeader(operation).toLowerCase()) === 'true';
}

export function isInFlight({ status, headers }: Answer): boolean {
  return status === 409 && headers.has('retry-after');
}

export function replayedHeader({ replayedHeader: name = REPLAYED_HEADER }: Operation): string {
  return name;
}

export function failure(message: string, actual: unknown, expected: unknown): AssertionError {
  return new AssertionError({ message, actual, expected, operator: 'idempotent', stackStartFn: failure });
}
