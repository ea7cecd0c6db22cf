import { describe, expect, it } from '@jest/globals';
import { lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { onTheWire } from './on-the-wire.js';
import { BIG_STREAM } from './orders.controller.js';
import { problem, problemIn, PROBLEMS } from './problems.js';

describe.each(ADAPTERS)('on the wire, with %s', (adapter) => {
  const { send, runs, rowOf } = onTheWire(adapter);

  describe('a response that is too large to keep', () => {
    it.each([
      ['buffered JSON', '/big-json', 201, JSON.stringify({ big: 'x'.repeat(5000) })],
      ['a stream of many pieces', '/big-stream', 202, BIG_STREAM.join('')],
    ])(
      'goes to the first client whole (%s); a retry is told, and nothing runs again',
      async (_, path, status, body) => {
        const key = `tombstone of ${path}`;
        const first = await send(path, key);
        expect(first.status).toBe(status);
        expect(first.body.toString()).toBe(body);
        expect(lines(first, 'Idempotency-Key')).toEqual([key]);

        const row = await rowOf(key);
        expect(row).toMatchObject({ response_body: null, response_status: status });
        for (let attempt = 0; attempt < 2; attempt++) {
          const retry = await send(path, key);
          const completed_at = (row!['created_at'] as Date).toISOString();
          expect(problemIn(retry)).toEqual(problem({ ...PROBLEMS.notKept, original_status: status, completed_at }));
        }
        expect(await runs(key)).toBe(1);
        expect(problemIn(await send(`${path}?other`, key))).toEqual(problem(PROBLEMS.reused));
      },
    );

    it('is one byte larger than the limit, not as large', async () => {
      const first = await send('/just-not-big', 'just-not-big');
      expect(first.body).toHaveLength(1000);
      expect(await send('/just-not-big', 'just-not-big')).toEqual(replayOf(first));
    });
  });
});
