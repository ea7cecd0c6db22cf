import { describe, expect, it } from '@jest/globals';
import { ADAPTERS } from '../../support/test-app.js';
import { keys, problemOf, sessions, start, withADatabaseEach } from './lab.js';

withADatabaseEach();

describe.each(ADAPTERS)('on %s', (adapter) => {
  describe('a transaction that cannot be committed', () => {
    it('since a statement failed is answered with 500, and nothing is kept', async () => {
      const test = await start(adapter);
      const response = await test.post('/swallow', 'k');
      expect([response.status, problemOf(response).type]).toEqual([500, 'urn:nestjs-idempotency:transaction-failed']);
      expect(await test.effects()).toEqual([]);
      expect(await keys()).toEqual([]);
      expect((await sessions()).filter(({ state }) => state !== 'idle')).toEqual([]);
    });

    it('since the handler has done so itself is answered with 500, and its key is not kept', async () => {
      const test = await start(adapter);
      const response = await test.post('/commit', 'k');
      expect([response.status, problemOf(response).type]).toEqual([500, 'urn:nestjs-idempotency:transaction-failed']);
      expect(await keys()).toEqual([]);
    });

    it('since the handler has deallocated what was prepared is rolled back once, and not again', async () => {
      const test = await start(adapter, { instances: 1 }); // each instance learns it for itself
      expect((await test.post('/deallocate', 'k')).status).toBe(503);
      expect(await test.effects()).toEqual([]);
      expect((await test.post('/deallocate', 'k')).status).toBe(201);
      expect(await test.effects()).toEqual(['order']);
    });
  });

  it('prepared statements that somebody has deallocated between two requests are quietly done without', async () => {
    const test = await start(adapter, { poolSize: 1 });
    expect((await test.post('/order', 'first')).status).toBe(201);
    for (const { dataSource } of test.instances) await dataSource.query('deallocate all');
    expect((await test.post('/order', 'second')).status).toBe(201);
    expect((await test.post('/order', 'first')).headerLines).toContain('Idempotency-Replayed: true');
    expect(await test.effects()).toHaveLength(6);
    expect(test.logs).toEqual([]);
  });
});
