import { describe, expect, it } from '@jest/globals';
import { ADAPTERS, IS_POOLED } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { advisoryLocks, keys, problemOf, sessions, start, terminate, withADatabaseEach } from './lab.js';
import { poolsOf } from './pools.js';

withADatabaseEach();

describe.each(ADAPTERS)('on %s', (adapter) => {
  describe('a backend that is killed', () => {
    const FATES: [when: string, path: string][] = [
      ['before the handler writes again', '/stop?then=write'],
      ['before the handler returns', '/stop?then=return'],
      ['while a statement runs', '/sleep'],
      ['between the end of the handler and the COMMIT', '/stop-outside'],
    ];

    it.each(FATES)('%s makes it a 503, and the key can be used', async (_, path) => {
      const test = await start(adapter);
      const { script } = test;
      const request = test.post(path, 'k');
      const pid = await script.arrived();
      await terminate(pid);
      await waitFor(async () => (await sessions()).every((session) => session.pid !== pid), {
        what: 'the session to end',
      });
      script.goOn();
      const response = await request;
      expect(response.status).toBe(503);
      expect(response.headerLines.some((line) => line.startsWith('Retry-After: '))).toBe(true);
      expect(problemOf(response)).toMatchObject({ type: 'urn:nestjs-idempotency:store-unavailable', status: 503 });
      expect(await test.effects()).toEqual([]);
      expect(await keys()).toEqual([]);
      // The look for the outcome of a lost COMMIT locks the key, and is rolled back beside the answer.
      await waitFor(async () => (await advisoryLocks()) === 0, { what: 'the key to be unlocked' });

      const healed = await Promise.all(
        Array.from({ length: 20 }, (__, index) => test.post('/plain', `plain ${index}`)),
      );
      expect(healed.every(({ status }) => status === 201)).toBe(true);
      for (const pool of poolsOf(test)) expect(pool.idleCount).toBe(pool.totalCount);

      if (path === '/sleep') return;
      const again = test.post(path, 'k');
      await script.arrived();
      script.goOn();
      expect((await again).status).toBe(201);
      expect(await keys()).toContain('k');
    });

    it('while its connection is idle in the pool is not noticed by anybody', async () => {
      const test = await start(adapter);
      expect((await test.post('/plain', 'first')).status).toBe(201);
      const before = await sessions();
      for (const { pid } of before) await terminate(pid);
      await waitFor(async () => (await sessions()).length === 0, { what: 'the sessions to end' });
      await waitFor(() => IS_POOLED || poolsOf(test).every(({ totalCount }) => totalCount === 0), {
        what: 'the pools to notice',
      });
      expect((await test.post('/plain', 'second')).status).toBe(201);
      expect((await test.post('/plain', 'first')).headerLines).toContain('Idempotency-Replayed: true');
    });
  });
});
