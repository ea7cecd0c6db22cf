import { type CallHandler, type ExecutionContext, type NestInterceptor } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { type Observable, timeout } from 'rxjs';
import { deferred } from '../../../src/util/deferred.js';
import { queryOn } from '../../support/empty-database.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { createLeaseApp, type LeaseApp, problemOf } from './lease-fixture.js';

const LEASE_MS = 900;
const POOL_SIZE = 4;

const ROUTES = {
  'in-time': { leaseMs: LEASE_MS, timeoutMs: 300 },
  patient: { leaseMs: LEASE_MS },
  hung: { leaseMs: LEASE_MS, timeoutMs: 300, stepTimeoutMs: 600 },
  strict: { leaseMs: LEASE_MS, isolation: 'SERIALIZABLE', inFlight: { waitMs: 20_000 } },
} as const;

/** NestJS' own example of a time limit. */
class ImpatientInterceptor implements NestInterceptor {
  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const { headers } = context.switchToHttp().getRequest<{ headers: Record<string, string> }>();
    return headers['x-impatient'] === undefined ? next.handle() : next.handle().pipe(timeout(200));
  }
}

describe.each(ADAPTERS)('a step that outlives its request, on %s', (adapter) => {
  let test: LeaseApp;
  let other: LeaseApp;

  beforeAll(async () => {
    const options = {
      adapter,
      poolSize: POOL_SIZE,
      configure: (app: { useGlobalInterceptors(...all: NestInterceptor[]): unknown }) =>
        void app.useGlobalInterceptors(new ImpatientInterceptor()),
    };
    test = await createLeaseApp(ROUTES, options);
    other = await createLeaseApp(ROUTES, { ...options, databaseUrl: test.databaseUrl });
  });

  afterEach(() => test.reset());

  afterAll(async () => {
    await other.close();
    await test.close();
  });

  const leaseOf = async (key: string): Promise<Date> => {
    const [row] = await queryOn<{ lease_expires_at: Date }>(
      test.databaseUrl,
      'select lease_expires_at from idempotency_keys where key = $1',
      [key],
    );
    return row!.lease_expires_at;
  };

  /** Until the lease that was there would have run out. */
  const outlive = async (key: string): Promise<void> => {
    const first = await leaseOf(key);
    await waitFor(() => new Date() > first, { what: 'the first lease to end' });
  };

  it.each([
    ['its time limit', 'in-time', [], 503],
    ['a time limit of an interceptor', 'patient', [['X-Impatient', '1']], 500],
  ] as const)(
    'keeps its lease behind %s; the next attempt goes on from its result',
    async (_, path, headers, status) => {
      const gate = deferred();
      test.script = async (context) => ({
        charge: await context.step('charge', async () => {
          await gate.promise;
          return test.call('charge');
        }),
        attempt: context.attempt,
      });
      other.script = test.script;
      expect(
        (
          await test.post(
            `/${path}`,
            'k',
            {},
            headers.map(([name, value]): [string, string] => [name, value]),
          )
        ).status,
      ).toBe(status);
      await outlive('k');
      for (const instance of [test, other]) {
        expect(problemOf(await instance.post(`/${path}`, 'k'))).toEqual([
          409,
          'urn:nestjs-idempotency:request-in-flight',
        ]);
      }
      gate.resolve();
      await test.untilState('k', 'released');
      const retry = await other.post(`/${path}`, 'k');
      expect([retry.status, retry.body.toString()]).toEqual([201, '{"charge":"charge #1","attempt":2}']);
      expect([test.provider, other.provider]).toEqual([['charge'], []]);
    },
  );

  it('keeps its lease when a step beside it has failed', async () => {
    const gate = deferred();
    test.script = (context) =>
      Promise.all([
        context.step('charge', async () => {
          test.call('charge');
          await gate.promise;
        }),
        context.step('mail', () => {
          if (context.attempt === 1) throw new Error('no mail');
        }),
      ]);
    expect((await test.post('/patient', 'k')).status).toBe(500);
    await outlive('k');
    expect((await test.post('/patient', 'k')).status).toBe(409);
    gate.resolve();
    await test.untilState('k', 'released');
    expect((await test.post('/patient', 'k')).status).toBe(201);
    expect(test.provider).toEqual(['charge']);
  });

  it('is waited for by a shutdown', async () => {
    const instance = await createLeaseApp(ROUTES, { adapter, databaseUrl: test.databaseUrl });
    const gate = deferred();
    instance.script = (context) =>
      context.step('charge', async () => {
        await gate.promise;
        return instance.call('charge');
      });
    expect((await instance.post('/in-time', 'k')).status).toBe(503);
    let isClosed = false;
    const closed = instance.close().then(() => (isClosed = true));
    await outlive('k');
    expect(isClosed).toBe(false);
    gate.resolve();
    await closed;
    expect(await test.service.find('k')).toMatchObject({ state: 'released', steps: ['charge'] });
    test.script = (context) => context.step('charge', () => test.call('charge'));
    expect((await test.post('/in-time', 'k')).status).toBe(201);
    expect([instance.provider, test.provider]).toEqual([['charge'], []]);
  });

  it('is given up when it hangs: nobody repeats it before an operator has spoken', async () => {
    const never = deferred();
    test.script = (context) =>
      context.step('charge', async () => {
        test.call('charge');
        await (context.attempt === 1 && never.promise);
      });
    expect((await test.post('/hung', 'k')).status).toBe(503);
    await test.untilState('k', 'interrupted');
    for (let retries = 0; retries < 2; retries++) {
      const retry = await test.post('/hung', 'k');
      expect(problemOf(retry)).toEqual([409, 'urn:nestjs-idempotency:outcome-unknown']);
      expect(retry.body.toString()).toContain('\\"charge\\"');
    }
    expect(await test.service.find('k')).toMatchObject({
      expiresAt: undefined,
      attention: { reason: 'effect-unknown', steps: ['charge'], detail: expect.stringContaining('stepTimeoutMs') },
    });
    expect(test.provider).toEqual(['charge']);
    expect(await test.service.release('k')).toBe(true);
    expect((await test.post('/hung', 'k')).status).toBe(201);
    expect(test.provider).toEqual(['charge', 'charge']);
  });

  it('does not run twice beside a transaction that locks its key for longer than its lease', async () => {
    const committed = deferred();
    test.script = async (context) => {
      const [, charge] = await Promise.all([
        context.transaction('write', async (manager) => {
          await manager.query('select pg_sleep($1)', [(LEASE_MS * 1.5) / 1_000]);
        }),
        context.step('charge', async () => {
          const charged = test.call('charge');
          await committed.promise;
          return charged;
        }),
      ]);
      return { charge, attempt: context.attempt };
    };
    const first = test.post('/strict', 'k');
    await test.untilState('k', 'running');
    await test.untilState('k', 'interrupted'); // the lease has run out by the clock, while the row is locked
    const retry = test.post('/strict', 'k');
    await waitFor(async () => (await test.steps()).length === 1, { what: 'the COMMIT' });
    expect((await test.service.find('k'))?.state).toBe('running');
    committed.resolve();
    const answers = await Promise.all([first, retry]);
    expect(answers.map(({ status, body }) => [status, body.toString()])).toEqual(
      [1, 2].map(() => [201, '{"charge":"charge #1","attempt":1}']),
    );
    expect(test.provider).toEqual(['charge']);
  });

  it('keeps its lease while the whole pool is busy with other work', async () => {
    const [busy, gate] = [deferred(), deferred()];
    test.script = (context) =>
      context.step('charge', async () => {
        busy.resolve();
        await gate.promise;
        return test.call('charge');
      });
    other.script = test.script;
    const first = test.post('/patient', 'k');
    await busy.promise;
    const runners = Array.from({ length: POOL_SIZE }, () => test.dataSource.createQueryRunner());
    await Promise.all(runners.map((runner) => runner.connect()));
    try {
      await outlive('k');
      expect((await other.post('/patient', 'k')).status).toBe(409);
      gate.resolve();
      expect((await first).status).toBe(201); // its memory and its response needed none, either
    } finally {
      await Promise.all(runners.map((runner) => runner.release()));
    }
    expect(test.provider).toEqual(['charge']);
  });

  it('is remembered inside of transactions that use up the pool', async () => {
    let inside = 0;
    const full = deferred();
    test.script = (context) =>
      test.dataSource.transaction(async (manager) => {
        await manager.query('select 1');
        if (++inside === POOL_SIZE) full.resolve();
        await full.promise;
        return context.step('charge', () => test.call('charge'));
      });
    const keys = Array.from({ length: POOL_SIZE }, (_, index) => `k${index}`);
    const answers = await Promise.all(keys.map((key) => test.post('/patient', key)));
    expect(answers.map(({ status }) => status)).toEqual(keys.map(() => 201));
    expect(test.provider).toHaveLength(POOL_SIZE);
  });
});
