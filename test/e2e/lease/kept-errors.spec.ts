import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type { IdempotencyContext } from '../../../src/index.js';
import { ADAPTERS } from '../../support/test-app.js';
import { createLeaseApp, type LeaseApp } from './lease-fixture.js';

class KeptError extends Error {}
class PassingError extends Error {}

/** Answers a key with what it has answered it first, as Stripe does, be that an error. */
class Provider {
  readonly answers = new Map<string, string | Error>();
  effects = 0;
  /** What comes of requests whose keys are new, in their order; then each is an effect. */
  script: Error[] = [];

  charge(key: string): string {
    const planned = this.answers.get(key) ?? this.script.shift() ?? `charge ${++this.effects}`;
    if (!(planned instanceof PassingError)) this.answers.set(key, planned);
    if (planned instanceof Error) throw planned;
    return planned;
  }
}

describe.each(ADAPTERS)('an error that the provider keeps under its key, on %s', (adapter) => {
  let test: LeaseApp;
  let provider: Provider;

  beforeAll(async () => {
    test = await createLeaseApp({ run: { required: false } }, { adapter });
  });

  afterEach(() => test.reset());

  afterAll(() => test.close());

  const charge = (context: IdempotencyContext, key: number) =>
    context.step('charge', { key, newKeyAfter: (error) => error instanceof KeptError }, () =>
      provider.charge(context.downstreamKey('charge', { key })),
    );

  const chargeOnce = (context: IdempotencyContext) =>
    context.step('charge', { newKeyAfter: (error) => error instanceof KeptError }, () =>
      provider.charge(context.downstreamKey('charge')),
    );

  it('is left behind by the next attempt, which has another key', async () => {
    provider = new Provider();
    provider.script = [new PassingError('500'), new KeptError('500'), new KeptError('500')];
    test.script = chargeOnce;
    const statuses = [];
    for (let tries = 0; tries < 4; tries++) statuses.push((await test.post('/run', 'k')).status);
    expect(statuses).toEqual([500, 500, 500, 201]);
    expect(provider.answers.size).toBe(3); // one key for each error that was kept, and the last
    expect(provider.effects).toBe(1);
  });

  it('has the same other key after a crash between the effect and its memory', async () => {
    provider = new Provider();
    provider.script = [new KeptError('500')];
    test.script = chargeOnce;
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect(await test.service.find('k')).toMatchObject({ state: 'released', steps: [] });
    test.script = async (context) => {
      await chargeOnce(context);
      throw new Error('died');
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    await test.dataSource.query(`delete from idempotency_steps where name = 'charge'`); // as if it had not come to that
    test.script = chargeOnce;
    expect((await test.post('/run', 'k')).body.toString()).toBe('charge 1');
    expect(provider.effects).toBe(1);
  });

  it('meets the same error where the process has died before it was written down', async () => {
    provider = new Provider();
    provider.script = [new KeptError('500')];
    test.script = chargeOnce;
    await test.post('/run', 'k');
    await test.dataSource.query('delete from idempotency_steps');
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(provider.effects).toBe(1);
  });

  it('gives another key to a step beside it in the same attempt, and only to that of its own item', async () => {
    provider = new Provider();
    provider.script = [new KeptError('500')];
    let keys: string[] = [];
    test.script = async (context) => {
      await charge(context, 7).catch(() => undefined);
      keys = [7, 8].map((key) => context.downstreamKey('charge', { key }));
      await context.step('again', () => provider.charge(keys[0]!));
      throw new Error('no');
    };
    await test.post('/run', 'k');
    const [renewed, other] = keys;
    await test.post('/run', 'k');
    expect(keys).toEqual([renewed, other]);
    expect(provider.answers.has(other!)).toBe(false);
    expect(provider.effects).toBe(1);
  });

  it('keeps its key where nobody can tell, and says why', async () => {
    provider = new Provider();
    provider.script = [new KeptError('500')];
    test.script = (context) =>
      context.step('charge', { newKeyAfter: () => Promise.reject(new Error('no look-up')) }, () =>
        provider.charge(context.downstreamKey('charge')),
      );
    for (let tries = 0; tries < 2; tries++) expect((await test.post('/run', 'k')).status).toBe(500);
    expect(provider.answers.size).toBe(1);
    expect(test.logs.join()).toContain('no look-up');
  });
});
