import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Stripe } from 'stripe';
import { Client } from 'pg';
import { ADAPTERS } from '../support/test-app.js';
import { PaymentsApi } from './payments-api.js';
import type { UnreliableNetwork } from './unreliable-network.js';

/** Stripe's own client, as its users have it, but for the address. */
describe.each(ADAPTERS)('the SDK of Stripe, with %s', (adapter) => {
  let api: PaymentsApi;
  let network: UnreliableNetwork;
  let email: string;
  let stripe: Stripe;

  beforeAll(async () => {
    api = await PaymentsApi.start(adapter, 'of Stripe');
  });

  beforeEach(async () => {
    network = await api.network();
    email = `${randomUUID()}@example.com`;
    stripe = new Stripe('sk_test_1', {
      protocol: 'http',
      host: '127.0.0.1',
      port: network.port,
      maxNetworkRetries: 3,
      telemetry: false,
    });
  });

  afterEach(() => network.stop());
  afterAll(() => api.close());

  const customers = () => api.query<{ id: string }>('select id from customers where email = $1', [email]);

  it.each(['by a key that it makes', 'by a key that it is given'])('creates one customer, %s', async (how) => {
    const options = how === 'by a key that it makes' ? undefined : { idempotencyKey: `customer-${email}` };
    network.loseNextAnswer();
    const customer = await stripe.customers.create({ name: 'Ada', email }, options);
    expect(network.struck).toBe(1);
    expect(await customers()).toEqual([{ id: (customer as unknown as { customer_id: string }).customer_id }]);
  });

  it('retries a 409 while the first request is in flight, and gets its answer', async () => {
    const holder = new Client(api.databaseUrl);
    await holder.connect();
    await holder.query('begin; lock table customers in exclusive mode');
    let attempts = 0;
    let released: Promise<unknown> = Promise.resolve();
    // The third is the retry of the one that was told to wait.
    stripe.on('request', () => ++attempts === 3 && (released = holder.query('commit')));
    const create = () => stripe.customers.create({ name: 'Ada', email }, { idempotencyKey: `twice-${email}` });
    const [one, other] = await Promise.all([create(), create()]);
    await released;
    await holder.end();
    expect(attempts).toBeGreaterThanOrEqual(3);
    expect(one).toEqual(other);
    expect(await customers()).toEqual([{ id: (one as unknown as { customer_id: string }).customer_id }]);
  });

  it('is told of a key that was used for something else', async () => {
    const create = (name: string) => stripe.customers.create({ name, email }, { idempotencyKey: `reused-${email}` });
    await create('Ada');
    await expect(create('Grace')).rejects.toMatchObject({ type: 'StripeAPIError', statusCode: 422 });
    expect(await customers()).toHaveLength(1);
  });
});

it('docs/client.md shows the filter as it is tested', () => {
  const source = readFileSync(new URL('recipes/stripe-errors.filter.ts', import.meta.url), 'utf8');
  expect(readFileSync('docs/client.md', 'utf8')).toContain(
    source.replace('../../../src/index.js', 'nestjs-idempotency').trim(),
  );
});
