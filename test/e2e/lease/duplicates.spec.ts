import { describe, expect, it } from '@jest/globals';
import { deferred } from '../../../src/util/deferred.js';
import { queryOn } from '../../support/empty-database.js';
import { headerOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { leaseModeOn } from './lease-mode-on.js';
import { provider, scripts } from './lease.controller.js';

describe.each(ADAPTERS)('lease mode on %s', (adapter) => {
  const { application, other, call, rows, steps, untilRunning, holding } = leaseModeOn(adapter);

  it('answers like transaction mode: first, replay, mismatch', async () => {
    scripts['pay'] = async (context, body) => ({ id: await context.step('charge', () => call('charge')), ...body });
    const first = await application().post('/run/pay', 'k', { amount: 1 });
    const replay = await other().post('/run/pay', 'k', { amount: 1 });
    expect(first.status).toBe(201);
    expect(JSON.parse(first.body.toString())).toEqual({ id: 'charge #1', amount: 1 });
    expect(replay.status).toBe(201);
    expect(replay.body).toEqual(first.body);
    expect(headerOf(replay, 'idempotency-replayed')).toBe('true');
    expect((await application().post('/run/pay', 'k', { amount: 2 })).status).toBe(422);
    expect(provider).toEqual(['charge']);
    expect(await steps()).toEqual([]); // they have done their duty
    expect(await rows()).toMatchObject([{ attempt: 1, lease_expires_at: null, response_status: 201 }]);
    expect(application().logs).toEqual([]);
  });

  it('holds no transaction and no connection while the handler runs', async () => {
    const { running, letGo } = await holding('/run/slow', 'k');
    const open = await queryOn(
      application().databaseUrl,
      `select 1 from pg_stat_activity where datname = current_database() and xact_start is not null and pid <> pg_backend_pid() and backend_type = 'client backend'`,
    );
    expect(open).toEqual([]);
    letGo();
    expect((await running).status).toBe(201);
  });

  it('tells a duplicate of a running request 409 at once, and 422 when it is another', async () => {
    const { running, letGo } = await holding('/run/slow', 'k', { a: 1 });
    for (const instance of [application(), other()]) {
      const duplicate = await instance.post('/run/slow', 'k', { a: 1 });
      expect([duplicate.status, headerOf(duplicate, 'retry-after')]).toEqual([409, '1']);
      expect((await instance.post('/run/slow', 'k', { a: 2 })).status).toBe(422);
    }
    letGo();
    expect((await running).status).toBe(201);
  });

  it('lets a duplicate wait for the replay, in the same process and in another', async () => {
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return { n: 1 };
    };
    const running = application().post('/wait/slow', 'k');
    await untilRunning('k');
    const waiting = [application().post('/wait/slow', 'k'), other().post('/wait/slow', 'k')];
    gate.resolve();
    const [first, ...replays] = await Promise.all([running, ...waiting]);
    for (const replay of replays) {
      expect([replay.status, replay.body.toString()]).toEqual([202, first!.body.toString()]);
      expect(headerOf(replay, 'idempotency-replayed')).toBe('true');
    }
  });

  it('renews the lease for as long as the handler runs', async () => {
    const { running, letGo } = await holding('/short/slow', 'k');
    const [before] = await rows();
    await waitFor(async () => (await rows())[0]!['lease_expires_at']! > before!['lease_expires_at']!, {
      what: 'a renewal',
      timeoutMs: 10_000,
    });
    await waitFor(async () => new Date() > (before!['lease_expires_at'] as Date), {
      what: 'the first lease to end',
      timeoutMs: 10_000,
    });
    expect((await other().post('/short/slow', 'k')).status).toBe(409);
    letGo();
    expect((await running).status).toBe(201);
  });
});
