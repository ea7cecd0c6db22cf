import { describe, expect, it } from '@jest/globals';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { onTheWire } from './on-the-wire.js';
import { PROBLEMS } from './problems.js';

describe.each(ADAPTERS)('on the wire, with %s', (adapter) => {
  const { application, send, runs, rowOf } = onTheWire(adapter);

  describe('an expired key', () => {
    const backDate = (key: string) =>
      application().dataSource.query(
        `update idempotency_keys set created_at = '2020-01-01', expires_at = '2020-01-02' where key = $1`,
        [key],
      );

    it('neither replays nor blocks while its row is still there', async () => {
      const first = await send('/orders', 'expired');
      await backDate('expired');
      const second = await send('/orders', 'expired');
      expect(second.status).toBe(201);
      expect(lines(second, 'Idempotency-Replayed')).toEqual([]);
      expect(json(second)['id']).not.toBe(json(first)['id']);
      expect(await send('/orders', 'expired')).toEqual(replayOf(second));

      await backDate('expired');
      expect((await send('/orders', 'expired', { body: '{"label":"expired","other":1}' })).status).toBe(201);
      expect(await runs('expired')).toBe(3);
    });

    it('takes the tombstone with it', async () => {
      await send('/big-json', 'expired-tombstone');
      expect(json(await send('/big-json', 'expired-tombstone'))).toMatchObject({ title: PROBLEMS.notKept.title });
      await backDate('expired-tombstone');
      expect((await send('/big-json', 'expired-tombstone')).status).toBe(201);
      expect(await runs('expired-tombstone')).toBe(2);
    });

    it('is kept for 24 hours by default, to the last minute', async () => {
      const first = await send('/orders', 'to-the-last');
      const { created_at, expires_at } = (await rowOf('to-the-last')) as Record<string, Date>;
      // each is a reading of its own, with a millisecond's end between them now and then
      expect(expires_at!.getTime() - created_at!.getTime() - 24 * 3_600_000).toBeLessThanOrEqual(100);
      expect(expires_at!.getTime() - created_at!.getTime()).toBeGreaterThanOrEqual(24 * 3_600_000);
      await application().dataSource.query(
        `update idempotency_keys set expires_at = statement_timestamp() + interval '1 minute' where key = 'to-the-last'`,
      );
      expect(await send('/orders', 'to-the-last')).toEqual(replayOf(first));
    });
  });
});
