import { describe, expect, it } from '@jest/globals';
import { BadRequestException, HttpException } from '@nestjs/common';
import { queryOn } from '../../support/empty-database.js';
import { ADAPTERS } from '../../support/test-app.js';
import { leaseModeOn } from './lease-mode-on.js';
import { provider, scripts, seen } from './lease.controller.js';

describe.each(ADAPTERS)('lease mode on %s', (adapter) => {
  const { application, other, service, call, rows, steps } = leaseModeOn(adapter);

  it('goes on from the finished steps after a failure, and after a 500', async () => {
    let failures = 2;
    scripts['pay'] = async (context) => {
      const charge = await context.step('charge', () => call('charge'));
      if (failures-- > 0) throw new Error('no');
      const receipt = await context.step('receipt', () => call('receipt'));
      return { charge, receipt, attempt: context.attempt };
    };
    expect((await application().post('/run/pay', 'k')).status).toBe(500);
    expect(await service().find('k')).toMatchObject({ state: 'released', attempt: 1, steps: ['charge'] });
    expect((await other().post('/run/pay', 'k')).status).toBe(500);
    const third = await application().post('/run/pay', 'k');
    expect(JSON.parse(third.body.toString())).toEqual({ charge: 'charge #1', receipt: 'receipt #2', attempt: 3 });
    expect(provider).toEqual(['charge', 'receipt']);
  });

  it('leaves the key unused where a request failed before its first step', async () => {
    expect((await application().post('/validated', 'k')).status).toBe(400);
    expect(await rows()).toEqual([]);
    expect((await application().post('/validated?amount=5', 'k')).status).toBe(201); // another payload, and not 422
  });

  it('keeps a payload to what its steps were begun for', async () => {
    scripts['pay'] = async (context) => {
      await context.step('charge', () => call('charge'));
      throw new BadRequestException();
    };
    expect((await application().post('/run/pay', 'k', { amount: 1 })).status).toBe(400);
    expect((await application().post('/run/pay', 'k', { amount: 2 })).status).toBe(422);
  });

  it('stores an error that the route accepts, of the handler and of a step', async () => {
    scripts['pay'] = async (context) => {
      await context.step('charge', () => {
        call('charge');
        throw new HttpException({ reason: 'no funds' }, 402);
      });
    };
    const first = await application().post('/run/pay', 'k');
    const replay = await other().post('/run/pay', 'k');
    expect([first.status, replay.status]).toEqual([402, 402]);
    expect(replay.body).toEqual(first.body);
    expect(provider).toEqual(['charge']);
  });

  it('remembers the error of a step that the route accepts, for the next attempt', async () => {
    let died = false;
    scripts['pay'] = async (context) => {
      const charge = context.step('charge', () => {
        call('charge');
        throw new HttpException({ reason: 'no funds' }, 402);
      });
      await charge.catch((error: HttpException) => seen.push(error.getStatus(), error.getResponse()));
      if (!died) {
        died = true;
        throw new Error('afterwards');
      }
      return 'done';
    };
    expect((await application().post('/run/pay', 'k')).status).toBe(500);
    expect((await application().post('/run/pay', 'k')).status).toBe(201);
    expect(provider).toEqual(['charge']);
    expect(seen).toEqual([402, { reason: 'no funds' }, 402, { reason: 'no funds' }]);
  });

  it('purges expired operations with their steps', async () => {
    scripts['pay'] = async (context) => {
      await context.step('charge', () => call('charge'));
      throw new Error('down');
    };
    expect((await application().post('/run/pay', 'k')).status).toBe(500);
    expect((await application().post('/run/pay', 'alive')).status).toBe(500);
    await queryOn(
      application().databaseUrl,
      `update idempotency_keys set created_at = '2020-01-01', expires_at = statement_timestamp() where key = 'k'`,
    );
    expect(await service().purge()).toBe(1);
    expect((await steps()).map((step) => step['key'])).toEqual(['alive']);
  });

  it('begins anew where an unfinished operation has expired', async () => {
    let failures = 1;
    scripts['pay'] = async (context) => {
      await context.step('charge', () => call('charge'));
      if (failures-- > 0) throw new Error('down');
      return { attempt: context.attempt };
    };
    expect((await application().post('/run/pay', 'k')).status).toBe(500);
    await queryOn(
      application().databaseUrl,
      `update idempotency_keys set created_at = '2020-01-01', expires_at = statement_timestamp() where key = 'k'`,
    );
    const answer = await application().post('/run/pay', 'k', { another: 'payload' });
    expect([answer.status, answer.body.toString()]).toEqual([201, '{"attempt":1}']);
    expect(provider).toEqual(['charge', 'charge']);
  });
});
