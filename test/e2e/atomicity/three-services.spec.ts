import { describe, expect, it } from '@jest/globals';
import { ADAPTERS } from '../../support/test-app.js';
import { keys, rows, sessions, start, watchTransactions, withADatabaseEach } from './lab.js';
import { watchOverlaps } from './pools.js';

withADatabaseEach();

describe.each(ADAPTERS)('on %s', (adapter) => {
  describe('a handler that writes through three services', () => {
    it('leaves nothing behind when it fails, and its key can be used', async () => {
      const test = await start(adapter);
      test.script.fails = true;
      expect((await test.post('/order', 'k')).status).toBe(409);
      expect(await test.effects()).toEqual([]);
      expect(await keys()).toEqual([]);

      test.script.fails = false;
      expect((await test.post('/order', 'k')).status).toBe(201);
      expect(await test.effects()).toEqual(['order', 'message', 'entry']);
      expect(await keys()).toEqual(['k']);
    });

    it('leaves nothing behind when it returns with a server error', async () => {
      const test = await start(adapter);
      expect((await test.post('/server-error', 'k')).status).toBe(500);
      expect(await test.effects()).toEqual([]);
      expect(await keys()).toEqual([]);
    });

    it('commits its writes and its key in one transaction', async () => {
      const test = await start(adapter);
      expect((await test.post('/plain', 'k')).status).toBe(201);
      expect(
        await rows(
          `select count(*)::int as rows, count(distinct xmin::text)::int as transactions
           from (select xmin from idempotency_keys union all select xmin from effects) r`,
        ),
      ).toEqual([{ rows: 3, transactions: 1 }]);
    });

    it('commits them in one transaction, savepoints or not', async () => {
      const test = await start(adapter);
      const writes = await watchTransactions();
      expect((await test.post('/order', 'k')).status).toBe(201);
      expect((await test.post('/order', 'k')).status).toBe(201);
      const all = await writes();
      expect(all.map(({ place }) => place)).toEqual(['effects', 'effects', 'effects', 'idempotency_keys']);
      expect(new Set(all.map(({ xid }) => xid)).size).toBe(1);
    });

    it('needs one connection', async () => {
      const test = await start(adapter, { poolSize: 1 });
      for (const path of ['/order', '/plain', '/parallel', '/settings']) {
        const first = await test.post(path, path);
        expect(first.status).toBe(201);
        const again = await test.post(path, path);
        expect(again.headerLines).toContain('Idempotency-Replayed: true');
        expect(again.body.equals(first.body)).toBe(true);
      }
      test.script.fails = true;
      expect((await test.post('/order', 'failing')).status).toBe(409);
      expect((await test.post('/order', '/plain')).status).toBe(422);
      expect(await sessions()).toHaveLength(test.instances.length);
    });

    it('may do so in parallel', async () => {
      const test = await start(adapter);
      const overlaps = watchOverlaps(test);
      const responses = await Promise.all(['a', 'b', 'c', 'd'].map((key) => test.post('/parallel', key)));
      expect(responses.map(({ body }) => body.toString())).toEqual(Array.from({ length: 4 }, () => '{"rejected":1}'));
      const effects = await test.effects();
      expect(effects.filter((label) => label === 'order')).toHaveLength(40);
      expect(effects).toHaveLength(4 * 23);
      expect(overlaps).toEqual([]);
      expect(test.logs).toEqual([]);
    });
  });
});
