import { type Answer, answerOf, described } from './answer.js';
import { interrupt, type Place } from './interruption.js';
import {
  answerTo,
  assertRepeats,
  assertReplay,
  assertSuccess,
  executed,
  expectReplayOf,
  failure,
  isInFlight,
  isReplay,
  type Operation,
} from './answers-of.js';

/** Many requests at once. */
export interface Storm extends Operation {
  /** How many are sent. 2 to 1,000. @default 20 */
  requests?: number;
}

const DEFAULT_REQUESTS = 20;

/**
 * Sends the request twice: it must have one effect, and the second answer repeat the first, marked as a replay.
 *
 * @returns the first answer, for further expectations
 * @throws AssertionError that tells what was otherwise
 */
export async function expectReplay(operation: Operation): Promise<Answer> {
  const effects = await effectsFrom(operation);
  const first = await executed(operation, 'The first request');
  await effects.expect(1, 'The first request');
  await expectReplayOf(first, operation, 'The second request');
  await effects.expect(1, 'The two requests together');
  return first;
}

/**
 * Sends the request many times at once: one must be carried out, and each other be told of its answer, or that it is in
 * flight (409). A further one must get the answer.
 *
 * With supertest let the application listen first (`await app.listen(0)`): a server that supertest starts for one request
 * is closed while others are on their way.
 *
 * @returns the answer of the one that was carried out
 * @throws AssertionError that tells what was otherwise
 */
export async function expectOneOfStorm(storm: Storm): Promise<Answer> {
  const { requests = DEFAULT_REQUESTS } = storm;
  if (!Number.isInteger(requests) || requests < 2 || requests > 1000) {
    throw new TypeError(`\`requests\` must be a whole number from 2 to 1000, not ${String(requests)}.`);
  }
  const effects = await effectsFrom(storm);
  const answers = await Promise.all(Array.from({ length: requests }, () => answerTo(storm, 'A request of the storm')));
  const ran = answers.filter((answer) => !isReplay(answer, storm) && !isInFlight(answer));
  const executions = ran.map(described);
  if (ran.length !== 1) {
    const what = ran.length === 0 ? 'none was carried out' : `${ran.length} were`;
    throw failure(`Of ${requests} requests with one key one must be carried out, but ${what}.`, executions, 1);
  }
  const [first] = ran as [Answer];
  assertSuccess(first, 'The request that was carried out');
  await effects.expect(1, `The ${requests} requests together`);
  for (const answer of answers.filter((each) => isReplay(each, storm))) {
    assertRepeats(first, answer, storm, 'A duplicate');
  }
  await expectReplayOf(first, storm, 'A request after them');
  await effects.expect(1, 'A request after them');
  return first;
}

/**
 * Ends the request after COMMIT and before a byte of its response is sent, as by a crash of the process: the client gets
 * no answer. There must be one effect, and a retry must get the answer that was lost, without another.
 *
 * The application must run in the process of the test, and serve no other idempotent request meanwhile. Callbacks of
 * `afterCommit` are lost, as they are in a crash, and the application logs the interruption.
 *
 * @returns the answer that was lost
 * @throws AssertionError that tells what was otherwise
 */
export async function expectReplayAfterLostResponse(operation: Operation): Promise<Answer> {
  const effects = await effectsFrom(operation);
  const { result } = await interrupted('after COMMIT', operation);
  if (result.status === 'fulfilled') {
    throw failure('The response was to be lost after COMMIT, but the client got one.', described(result.value), 'none');
  }
  await effects.expect(1, 'The request whose response was lost');
  const replay = await answerTo(operation, 'The retry');
  assertReplay(replay, operation, 'The retry of a request whose response was lost');
  await effects.expect(1, 'The retry');
  return replay;
}

/**
 * Lets the request fail after its handler and before COMMIT: it must leave no effect, and a retry must be carried out
 * as if nothing had been.
 *
 * In lease mode its steps have committed each by itself, so that their effects stay, and a retry goes on from there:
 * count what the last step does.
 *
 * The application must run in the process of the test, and serve no other idempotent request meanwhile.
 *
 * @returns the answer of the retry
 * @throws AssertionError that tells what was otherwise
 */
export async function expectRetryAfterFailedCommit(operation: Operation): Promise<Answer> {
  const effects = await effectsFrom(operation);
  const { result } = await interrupted('before COMMIT', operation);
  if (result.status === 'fulfilled' && result.value.status < 500) {
    throw failure('A request that fails before COMMIT must not succeed.', described(result.value), '500 or above');
  }
  await effects.expect(0, 'The request that failed before COMMIT');
  const retry = await executed(operation, 'The retry');
  await effects.expect(1, 'The retry');
  return retry;
}

async function interrupted(
  place: Place,
  operation: Operation,
): Promise<{ result: PromiseSettledResult<Answer>; struck: boolean }> {
  const outcome = await interrupt(place, async () => answerOf(await operation.send()));
  if (!outcome.struck) {
    const { result } = outcome;
    const got = result.status === 'fulfilled' ? described(result.value) : String(result.reason);
    throw failure(
      `No request got as far as its end ${place}. The application must run in the process of the test, the route be ` +
        `@Idempotent(), the key a new one, and the handler succeed. The client got: ${got}`,
      got,
      `a request that is recorded`,
    );
  }
  return outcome;
}

/** What was there before does not count. */
async function effectsFrom({ countEffects }: Operation): Promise<{
  expect(expected: number, who: string): Promise<void>;
}> {
  const before = await countEffects();
  return {
    async expect(expected, who) {
      const actual = (await countEffects()) - before;
      if (actual !== expected) {
        throw failure(
          `${who} must have ${expected} effect${expected === 1 ? '' : 's'}, but countEffects() tells of ${actual}.`,
          actual,
          expected,
        );
      }
    },
  };
}
