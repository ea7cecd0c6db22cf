import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from '@jest/globals';
import { deferred } from '../../../src/util/deferred.js';
import { Effect } from '../../support/effect.entity.js';
import { queryOn } from '../../support/empty-database.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { createLeaseApp, type LeaseApp, problemOf } from './lease-fixture.js';

const LEASE_MS = 900;
const POOL_SIZE = 2;

const ROUTES = {
  run: { leaseMs: 6_000 },
  strict: { leaseMs: LEASE_MS, isolation: 'SERIALIZABLE', inFlight: { waitMs: 20_000 } },
  'in-time': { timeoutMs: 300 },
} as const;

describe.each(ADAPTERS)('what a lease is trusted by, on %s', (adapter) => {
  let test: LeaseApp;
  let other: LeaseApp;

  beforeAll(async () => {
    const options = { adapter, poolSize: POOL_SIZE };
    test = await createLeaseApp(ROUTES, options);
    other = await createLeaseApp(ROUTES, { ...options, databaseUrl: test.databaseUrl });
  });

  afterEach(async () => {
    jest.restoreAllMocks();
    other.logs.length = 0;
    await test.reset();
  });

  afterAll(async () => {
    await other.close();
    await test.close();
  });

  const sleeping = async (): Promise<boolean> => {
    const rows = await queryOn(
      test.databaseUrl,
      `select from pg_stat_activity where query like '%pg_sleep%' and state = 'active'
         and datname = current_database() and pid <> pg_backend_pid()`,
    );
    return rows.length > 0;
  };

  it.each([
    ['the wall clock, where the monotonic one has stood still in a suspended machine', Date],
    ['the monotonic clock, where the other was set back', performance],
  ])('is %s', async (_, clock) => {
    const seen: unknown[] = [];
    test.script = async (context) => {
      await context.step('a', () => test.call('a'));
      await test.expireLease('k');
      expect((await other.post('/run', 'k')).status).toBe(201);
      const now = clock.now.bind(clock);
      const spy = jest.spyOn(clock as typeof Date, 'now').mockImplementation(() => now() + 6_000);
      await context.step('b', () => test.call('b')).catch((error: unknown) => seen.push(error));
      spy.mockRestore();
      throw seen[0];
    };
    other.script = async (context) => {
      await context.step('a', () => other.call('a'));
      return 'by the other';
    };
    expect(problemOf(await test.post('/run', 'k'))).toEqual([409, 'urn:nestjs-idempotency:lease-lost']);
    expect(test.provider).toEqual(['a']);
    expect((await test.post('/run', 'k')).body.toString()).toBe('by the other');
  });

  it('is asked for anew behind a transaction that outlived it and was rolled back', async () => {
    const begun = deferred();
    test.script = async (context) => {
      await context
        .transaction('write', async (manager) => {
          await manager.save(Effect, { label: `attempt ${context.attempt}` });
          begun.resolve();
          if (context.attempt === 1) {
            await manager.query('select pg_sleep($1)', [(LEASE_MS * 1.5) / 1_000]);
            throw new Error('rolled back');
          }
        })
        .catch((error: Error) => error.message);
      return context.step('charge', () => test.call(`charge of attempt ${context.attempt}`));
    };
    const first = test.post('/strict', 'k');
    await begun.promise;
    await test.untilState('k', 'interrupted'); // by the clock, while its row is locked
    const retry = test.post('/strict', 'k');
    const answers = await Promise.all([first, retry]);
    expect(test.provider).toHaveLength(1);
    expect(answers.map(({ status }) => status)).toContain(201);
    expect((await test.post('/strict', 'k')).body.toString()).toBe(`${test.provider[0]} #1`);
  });

  it('ends with the time limit of a transaction that hangs, which is undone', async () => {
    test.script = async (context) =>
      context.transaction('write', async (manager) => {
        await manager.save(Effect, { label: `attempt ${context.attempt}` });
        await (context.attempt === 1 && manager.query('select pg_sleep(60)'));
        return context.attempt;
      });
    expect((await test.post('/in-time', 'k')).status).toBe(503);
    expect((await test.post('/in-time', 'k')).status).toBe(409); // it may still commit
    await waitFor(async () => (await test.service.find('k'))?.state === 'released', {
      what: 'the key to be released',
      timeoutMs: 15_000,
    });
    await waitFor(async () => !(await sleeping()), { what: 'the statement to be cancelled' });
    expect((await test.post('/in-time', 'k')).body.toString()).toBe('2');
    expect(await test.effects()).toEqual(['attempt 2']);
  });

  it('refuses ctx.transaction at once inside of transactions that use up the pool, and says so', async () => {
    let inside = 0;
    const full = deferred();
    test.script = (context) =>
      test.dataSource.transaction(async (manager) => {
        await manager.save(Effect, { label: 'undone' });
        if (++inside === POOL_SIZE) full.resolve();
        await full.promise;
        return context.transaction('book', (own) => own.save(Effect, { label: 'booked' }));
      });
    const answers = await Promise.all(['k1', 'k2'].map((key) => test.post('/run', key)));
    expect(answers.map(({ status }) => status)).toContain(503);
    expect([...test.logs, ...other.logs].join()).toContain('Call it outside of that transaction');
    full.resolve();
    for (const key of ['k1', 'k2']) expect((await test.post('/run', key)).status).toBe(201);
    expect((await test.effects()).filter((label) => label === 'booked')).toHaveLength(2);
  });
});
