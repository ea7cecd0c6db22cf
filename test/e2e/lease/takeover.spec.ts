import { describe, expect, it } from '@jest/globals';
import { deferred, type Deferred } from '../../../src/util/deferred.js';
import { IdempotencyLeaseLostException } from '../../../src/index.js';
import { queryOn } from '../../support/empty-database.js';
import { headerOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { leaseModeOn } from './lease-mode-on.js';
import { provider, scripts, seen } from './lease.controller.js';

describe.each(ADAPTERS)('lease mode on %s', (adapter) => {
  const { application, other, call } = leaseModeOn(adapter);

  it('takes over as the next attempt when a process has died, with its finished steps', async () => {
    const [entered, never] = [deferred(), deferred<string>()];
    scripts['pay'] = async (context) => {
      const charge = await context.step('charge', () => call('charge'));
      if (context.attempt === 1) {
        entered.resolve();
        await never.promise;
      }
      const after = await context.step('after', () => call('after')).catch((error: unknown) => seen.push(error));
      return { charge, after, attempt: context.attempt };
    };
    const first = application().post('/run/pay', 'k');
    await entered.promise;
    // The holder is alive, but cut off from the table: neither it nor its renewals know.
    await queryOn(
      application().databaseUrl,
      `update idempotency_keys set claim_id = '00000000-0000-4000-8000-000000000000', lease_expires_at = statement_timestamp() where key = 'k'`,
    );
    const second = await other().post('/run/pay', 'k');
    expect([second.status, JSON.parse(second.body.toString())]).toEqual([
      201,
      { charge: 'charge #1', after: 'after #2', attempt: 2 },
    ]);
    never.resolve('woken up');
    const late = await first;
    expect(late.body).toEqual(second.body);
    expect(headerOf(late, 'idempotency-replayed')).toBe('true');
    expect(provider.filter((name) => name === 'charge')).toEqual(['charge']);
  });

  it('tells a former holder so: by its signal, its steps and its renewals', async () => {
    const [entered, gate] = [deferred(), deferred()];
    scripts['pay'] = async (context) => {
      entered.resolve();
      await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
      seen.push(context.signal.reason);
      await context.step('charge', () => call('charge')).catch((error: unknown) => seen.push(error));
      await gate.promise;
      return 'too late';
    };
    const first = application().post('/short/pay', 'k');
    await entered.promise;
    await queryOn(
      application().databaseUrl,
      `update idempotency_keys set claim_id = '00000000-0000-4000-8000-000000000000' where key = 'k'`,
    );
    await waitFor(() => seen.length === 2, { what: 'the holder to be told', timeoutMs: 10_000 });
    expect(seen.map((error) => error instanceof IdempotencyLeaseLostException)).toEqual([true, true]);
    gate.resolve();
    expect((await first).status).toBe(409);
    expect(provider).toEqual([]);
  });

  it('answers with the problem when the handler lets it through', async () => {
    const entered = deferred();
    scripts['pay'] = async (context) => {
      entered.resolve();
      await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
      return context.step('charge', () => call('charge'));
    };
    const first = application().post('/run/pay', 'k');
    await entered.promise;
    await queryOn(
      application().databaseUrl,
      `update idempotency_keys set claim_id = '00000000-0000-4000-8000-000000000000' where key = 'k'`,
    );
    const answer = await first;
    expect([answer.status, headerOf(answer, 'content-type'), headerOf(answer, 'retry-after')]).toEqual([
      409,
      'application/problem+json; charset=utf-8',
      '1',
    ]);
    expect(JSON.parse(answer.body.toString()).type).toBe('urn:nestjs-idempotency:lease-lost');
  });

  it('of two takers lets one go on', async () => {
    const entered = deferred();
    const held: Deferred<void>[] = [];
    scripts['pay'] = async (context) => {
      const gate = deferred();
      held.push(gate);
      entered.resolve();
      await gate.promise;
      return { attempt: context.attempt };
    };
    const first = application().post('/run/pay', 'k');
    await entered.promise;
    await queryOn(
      application().databaseUrl,
      `update idempotency_keys set claim_id = '00000000-0000-4000-8000-000000000000', lease_expires_at = statement_timestamp() where key = 'k'`,
    );
    const takers = Array.from({ length: 10 }, () => other().post('/run/pay', 'k'));
    await waitFor(() => held.length > 1, { what: 'a taker', timeoutMs: 10_000 });
    const refused = await Promise.any(takers);
    expect(refused.status).toBe(409);
    held[1]!.resolve();
    const answers = await Promise.all(takers);
    const own = answers.filter(
      (answer) => answer.status === 201 && headerOf(answer, 'idempotency-replayed') === undefined,
    );
    expect(own).toHaveLength(1);
    expect(held).toHaveLength(2);
    held[0]!.resolve();
    expect(JSON.parse((await first).body.toString())).toEqual({ attempt: 2 });
  });
});
