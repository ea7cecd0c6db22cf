// oxlint-disable jest/no-conditional-expect -- what a property claims depends on the case that was generated
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { ADAPTERS } from '../../support/test-app.js';
import { headerValues } from './header-values.js';
import { executions, KeysController } from './keys.controller.js';
import { headerCase, type HeaderCase, headerRequest, Pipeline, type Reply } from './pipeline.js';
import { SEED, SENT_VALUES, SLOW_TEST_MS } from './settings.js';
import { startTest } from './start-test.js';

const CONNECTIONS = 4;
const REQUESTS_AT_ONCE = 24;

describe.each(ADAPTERS)('the header, at a live server on %s', (adapter) => {
  let test: Awaited<ReturnType<typeof startTest>>;

  beforeAll(async () => {
    executions.clear();
    test = await startTest(adapter, [KeysController], { inFlight: { waitMs: 10_000 } });
  });

  afterAll(async () => {
    await test.close();
  });

  it(
    `of ${SENT_VALUES} requests gives success to each that the parser finds a key in, and 400 to all others`,
    async () => {
      const values = headerValues(SENT_VALUES, SEED + ADAPTERS.indexOf(adapter) + 1);
      const cases = values.map((value, index) =>
        headerCase(index % 50 === 0 ? [] : index % 20 === 0 ? [value, values[index - 1]!] : [value], index),
      );
      const sendable = cases.filter(({ refusedByNode }) => !refusedByNode);
      const refused = cases.filter(({ refusedByNode }) => refusedByNode).slice(0, 500);
      const wrong: unknown[] = [];

      const queue = [...sendable];
      const worker = async (): Promise<void> => {
        const pipeline = await Pipeline.open(test.port);
        for (
          let batch = queue.splice(0, REQUESTS_AT_ONCE);
          batch.length > 0;
          batch = queue.splice(0, REQUESTS_AT_ONCE)
        ) {
          const replies = await pipeline.exchange(batch.map(headerRequest));
          wrong.push(
            ...replies.flatMap((reply, index) => (isRight(reply, batch[index]!) ? [] : { reply, of: batch[index] })),
          );
        }
        pipeline.close();
      };
      await Promise.all(Array.from({ length: CONNECTIONS }, worker));

      for (const header of refused) {
        const pipeline = await Pipeline.open(test.port);
        const answer = await pipeline.rest(headerRequest(header));
        if (!/^HTTP\/1\.1 4(?:00|31) /.test(answer)) wrong.push({ answer, header });
      }

      expect({ seed: SEED, wrong: wrong.slice(0, 3) }).toEqual({ seed: SEED, wrong: [] });
      const keys = new Set(sendable.flatMap(({ expected }) => (expected.kind === 'key' ? expected.key : [])));
      expect(keys.size).toBeGreaterThan(SENT_VALUES / 20);
      expect(executions).toEqual(new Map([...keys].map((key) => [key, 1])));
      const [{ count }] = await test.dataSource.query<[{ count: number }]>(
        'select count(*)::int4 as count from idempotency_keys',
      );
      expect(count).toBe(keys.size);
      expect(test.lines).toEqual([]); // and so the key is in none of them
    },
    SLOW_TEST_MS,
  );
});

/** Nothing of a refused key is in the answer: it is, to the letter, what the reason alone makes of it. */
function isRight({ status, head, body }: Reply, { expected }: HeaderCase): boolean {
  const echo = /^idempotency-key: (.*)$/im.exec(head)?.[1];
  switch (expected.kind) {
    case 'key':
      return (
        status === 201 && echo === expected.raw && body === `{"hex":"${Buffer.from(expected.key).toString('hex')}"}`
      );
    case 'missing':
      return status === 400 && echo === undefined && body.includes('"type":"urn:nestjs-idempotency:key-missing"');
    case 'malformed': {
      const problem = {
        type: 'urn:nestjs-idempotency:key-malformed',
        title: 'Idempotency-Key is malformed',
        status: 400,
        detail: `The idempotency key cannot be used: ${expected.reason}.`,
      };
      return status === 400 && echo === undefined && body === JSON.stringify(problem);
    }
  }
}
