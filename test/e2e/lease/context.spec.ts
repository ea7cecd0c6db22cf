import { describe, expect, it } from '@jest/globals';
import type { INestApplication } from '@nestjs/common';
import { deferred } from '../../../src/util/deferred.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { leaseModeOn } from './lease-mode-on.js';
import { LeaseController, scripts, seen } from './lease.controller.js';

describe.each(ADAPTERS)('lease mode on %s', (adapter) => {
  const { application, other, service, untilRunning } = leaseModeOn(adapter);

  it('gives a stable key to hand downstream, another for each step, key and scope', async () => {
    let failures = 1;
    scripts['keys'] = (context) => {
      seen.push(context.downstreamKey('charge'));
      if (failures-- > 0) throw new Error('once more');
      return [context.downstreamKey('charge'), context.downstreamKey('refund')];
    };
    await application().post('/run/keys', 'k');
    const [charge, refund] = JSON.parse((await other().post('/run/keys', 'k')).body.toString()) as string[];
    const [elsewhere] = JSON.parse((await other().post('/run/keys', 'other')).body.toString()) as string[];
    expect(seen.slice(0, 2)).toEqual([charge, charge]);
    expect(charge).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(new Set([charge, refund, elsewhere]).size).toBe(3);
  });

  it('runs afterCommit once the response is recorded, never after a failure', async () => {
    scripts['pay'] = async (context, { fails }) => {
      context.afterCommit(async () => seen.push((await service().find(context.key))?.state));
      if (fails) throw new Error('no');
      return 'done';
    };
    expect((await application().post('/run/pay', 'fails', { fails: true })).status).toBe(500);
    expect((await application().post('/run/pay', 'k')).status).toBe(201);
    await waitFor(() => seen.length > 0, { what: 'afterCommit', timeoutMs: 10_000 });
    expect(seen).toEqual(['completed']);
  });

  it('and transaction mode do not run the same key side by side', async () => {
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return 'done';
    };
    const entered = deferred();
    scripts['enter'] = async () => {
      entered.resolve();
      await gate.promise;
      return 'done';
    };
    const plain = application().post('/plain/enter', 'plain');
    await entered.promise;
    expect((await other().post('/run/slow', 'plain')).status).toBe(409);
    const leased = application().post('/run/slow', 'leased');
    await untilRunning('leased');
    expect((await other().post('/plain/slow', 'leased')).status).toBe(422); // another path
    gate.resolve();
    expect([(await plain).status, (await leased).status]).toEqual([201, 201]);
  });

  it('is what steps ask for: transaction mode says so', async () => {
    scripts['steps'] = async (context) => {
      await context.step('a', () => 1).catch((error: unknown) => seen.push(error));
      await context.transaction('b', () => 1).catch((error: unknown) => seen.push(error));
      return context.downstreamKey('a').length;
    };
    expect((await application().post('/plain/steps', 'k')).status).toBe(201);
    expect(seen.map(String)).toEqual([
      expect.stringContaining("Set `mode: 'lease'`"),
      expect.stringContaining("Set `mode: 'lease'`"),
    ]);
  });

  it('finishes what runs before the application ends', async () => {
    const instance: TestApp & { app: INestApplication } = await createTestApp({
      adapter,
      controllers: [LeaseController],
      databaseUrl: application().databaseUrl,
    });
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return 'done';
    };
    const running = instance.post('/run/slow', 'k');
    await untilRunning('k');
    const closed = instance.close();
    gate.resolve();
    expect((await running).status).toBe(201);
    await closed;
    expect((await service().find('k'))!.state).toBe('completed');
  });
});
