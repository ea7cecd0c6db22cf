import { randomUUID } from 'node:crypto';
import { brotliDecompressSync, gunzipSync, inflateSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import * as fc from 'fast-check';
import { Idempotent } from '../../../src/index.js';
import { type RawResponse, withoutVolatile } from '../../support/raw-http.js';
import { headerOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { answers } from './answer-values.js';
import { answersController, answerWith } from './answers.controller.js';
import { plainly } from './body-views.js';
import { parameters, RESPONSES, SLOW_TEST_MS } from './settings.js';
import { startTest } from './start-test.js';

describe.each(ADAPTERS)('a handler that answers whatever HTTP allows, on %s', (adapter) => {
  let test: Awaited<ReturnType<typeof startTest>>;

  beforeAll(async () => {
    test = await startTest(adapter, [answersController('', Idempotent), answersController('plain', plainly)]);
  });

  afterAll(async () => {
    await test.close();
  });

  const ask = (key: string, prefix = '', headers: [string, string][] = []): Promise<RawResponse> =>
    test.request({ method: 'POST', path: `${prefix}/answers`, headers: [['Idempotency-Key', key], ...headers] });

  it(
    'is answered for as it would be without the library, and again byte for byte',
    async () => {
      await fc.assert(
        fc.asyncProperty(answers, async (given) => {
          answerWith(given);
          test.lines.length = 0;
          const key = randomUUID();
          const plain = await ask(key, '/plain');
          const first = await ask(key);
          const replay = await ask(key);
          expect(first.statusLine).toBe(plain.statusLine);
          expect(first.body.equals(plain.body)).toBe(true);
          expect(comparable(first.headerLines)).toEqual(comparable(plain.headerLines));
          expect(replay.statusLine).toBe(first.statusLine);
          expect(replay.body.equals(first.body)).toBe(true);
          expect(replay.headerLines).toContain('Idempotency-Replayed: true');
          expect(comparable(replay.headerLines)).toEqual(comparable(first.headerLines));
          expect(test.lines).toEqual([]);
        }),
        parameters(RESPONSES),
      );
    },
    SLOW_TEST_MS,
  );

  it('is replayed also when the body is not what its Content-Encoding says', async () => {
    const encodings = fc.constantFrom('gzip', 'x-gzip', 'deflate', 'br', 'GZIP', 'identity', 'gzip, br', 'no-such');
    const encoded = fc.record({ given: answers, encoding: encodings, accepted: fc.constantFrom('', 'gzip', '*;q=0') });
    await fc.assert(
      fc.asyncProperty(encoded, async ({ given, encoding, accepted }) => {
        answerWith({ ...given, way: 'raw', headers: [['Content-Encoding', encoding]] });
        const key = randomUUID();
        const first = await ask(key);
        const replay = await ask(key, '', [['Accept-Encoding', accepted]]);
        expect(replay.statusLine).toBe(first.statusLine);
        expect([first.body, decoded(encoding, first.body)]).toContainEqual(replay.body);
        expect(headerOf(replay, 'Idempotency-Replayed')).toBe('true');
      }),
      parameters(RESPONSES / 4),
    );
  });
});

/** A few bytes may happen to be what their encoding says. */
function decoded(encoding: string, body: Buffer): Buffer | undefined {
  const decoders = { gzip: gunzipSync, 'x-gzip': gunzipSync, deflate: inflateSync, br: brotliDecompressSync };
  try {
    return decoders[encoding.toLowerCase() as keyof typeof decoders]?.(body);
  } catch {
    return undefined;
  }
}

/** A body that was held is sent with its length, where it would have been sent in chunks. */
function comparable(headerLines: string[]): string[] {
  return withoutVolatile(headerLines)
    .filter((line) => !/^(?:idempotency-key|idempotency-replayed|content-length|transfer-encoding):/i.test(line))
    .toSorted();
}
