import { describe, expect, it } from '@jest/globals';
import { ADAPTERS, IS_POOLED } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { advisoryLocks, sessions, start, withADatabaseEach } from './lab.js';
import { poolsOf, watchOverlaps } from './pools.js';

withADatabaseEach();

describe.each(ADAPTERS)('on %s', (adapter) => {
  it('as many connections as before are there after 200 requests of all kinds, none in a transaction', async () => {
    const poolSize = 4;
    const test = await start(adapter, { poolSize });
    const overlaps = watchOverlaps(test);
    const statuses: number[] = [];
    for (let round = 0; round < 20; round++) {
      test.script.fails = round % 2 === 1;
      const key = `round ${round >> 1}`;
      const responses = await Promise.all([
        test.post('/order', `order ${key}`), // 201, and replayed in the next round
        test.post('/order', `order ${key}`), // in flight, or the same
        test.post('/order', `order ${key}`, { another: 'payload' }), // in flight, or a mismatch
        test.post('/order', `failing ${key}, ${test.script.fails}`), // 409 in every other round
        test.post('/parallel', `parallel ${round}`),
        test.post('/swallow', `swallow ${round}`), // 500
        test.post('/impatient', `impatient ${key}`), // 201 or, in the next round, a replay
        test.post('/impatient', `impatient ${round}`), // 503 in every other round
        test.post('/server-error', `server error ${round}`), // 500
        test.post('/plain', `plain ${round % 3}`), // replayed from the fourth round on
      ]);
      statuses.push(...responses.map(({ status }) => status));
    }
    expect(statuses).toHaveLength(200);
    expect([...new Set(statuses)].toSorted()).toEqual([201, 409, 422, 500, 503]);

    const pools = poolsOf(test);
    const connections = () => pools.reduce((sum, { totalCount }) => sum + totalCount, 0);
    await waitFor(() => pools.every(({ idleCount, totalCount }) => idleCount === totalCount), {
      what: 'all connections to be back',
    });
    await waitFor(async () => IS_POOLED || (await sessions()).length === connections(), {
      what: 'closed sessions to end',
    });
    for (const pool of pools) {
      expect(pool.totalCount).toBeLessThanOrEqual(poolSize);
      expect(pool.waitingCount).toBe(0);
    }
    expect((await sessions()).filter(({ state }) => state !== 'idle')).toEqual([]);
    expect(await advisoryLocks()).toBe(0);
    expect(overlaps).toEqual([]);
    expect((await Promise.all(Array.from({ length: 8 }, () => test.post('/order', 'last round 1')))).length).toBe(8);
  });
});
