import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { HttpModule, HttpService } from '@nestjs/axios';
import { Test } from '@nestjs/testing';
import { MutationObserver, QueryClient } from '@tanstack/query-core';
import { create } from 'axios';
import createClient from 'openapi-fetch';
import { firstValueFrom } from 'rxjs';
import { Agent, fetch as undiciFetch } from 'undici';
import { idempotent, operation, poll } from '../../src/client/index.js';
import { PaymentsApi } from '../clients/payments-api.js';
import type { Payment } from '../clients/recipes/recipe.js';
import { ADAPTERS } from '../support/test-app.js';

/** As a generator of types makes it from the OpenAPI document. */
interface paths {
  '/v1/payments': {
    post: {
      requestBody: { content: { 'application/json': Payment } };
      responses: { 201: { content: { 'application/json': { payment_id: string } } } };
    };
  };
}

const PATIENCE = { baseDelayMs: 5 };
const json = { 'Content-Type': 'application/json' };

describe.each(ADAPTERS)('the client below other clients, with %s', (adapter) => {
  let api: PaymentsApi;

  beforeAll(async () => {
    api = await PaymentsApi.start(adapter);
  });

  afterAll(() => api.close());

  const TRANSPORTS: Record<string, (base: string, payment: Payment) => Promise<unknown>> = {
    async fetch(base, payment) {
      const init = { method: 'POST', headers: json, body: JSON.stringify(payment) };
      const response = await idempotent(fetch, PATIENCE)(`${base}/v1/payments`, init);
      return response.json();
    },
    async undici(base, payment) {
      const dispatcher = new Agent({ connections: 1 });
      const init = { method: 'POST', headers: json, body: JSON.stringify(payment), dispatcher };
      const response = await idempotent(undiciFetch, PATIENCE)(`${base}/v1/payments`, init);
      return response.json();
    },
    async axios(base, payment) {
      const client = create({ adapter: 'fetch', env: { fetch: idempotent(fetch, PATIENCE) } });
      const fetchOptions = { operation: operation(payment.destination) } as object;
      const { data } = await client.post<unknown>(`${base}/v1/payments`, payment, { fetchOptions });
      return data;
    },
    async '@nestjs/axios'(base, payment) {
      const options = { adapter: 'fetch' as const, env: { fetch: idempotent(fetch, PATIENCE) } };
      const module = await Test.createTestingModule({ imports: [HttpModule.register(options)] }).compile();
      const { data } = await firstValueFrom(module.get(HttpService).post<unknown>(`${base}/v1/payments`, payment));
      return data;
    },
    async 'openapi-fetch'(base, payment) {
      const client = createClient<paths>({ baseUrl: base, fetch: idempotent(fetch, PATIENCE) });
      const { data } = await client.POST('/v1/payments', { body: payment });
      return data;
    },
    async '@tanstack/query'(base, payment) {
      const pay = idempotent(fetch, PATIENCE);
      const mutation = new MutationObserver(new QueryClient(), {
        retry: false, // the client does, with one key
        networkMode: 'always',
        mutationFn: async (body: Payment) => {
          const init = { method: 'POST', headers: json, body: JSON.stringify(body) };
          const response = await pay(`${base}/v1/payments`, {
            ...init,
            operation: operation(`pay:${body.destination}`),
          });
          return (await response.json()) as unknown;
        },
      });
      return mutation.mutate(payment);
    },
  };

  it.each(Object.keys(TRANSPORTS))('%s pays once through a network that loses answers', async (name) => {
    const network = await api.network();
    const payment = api.payment();
    network.break('cut before the answer');
    network.break('cut in the answer');
    const answer = await TRANSPORTS[name]!(network.url, payment);
    expect(answer).toMatchObject({ payment_id: expect.any(String), destination: payment.destination });
    expect([network.struck, await api.effects(payment)]).toEqual([2, 1]);
  });

  it('follows a job to its end, through the same network', async () => {
    const network = await api.network();
    const payment = api.payment();
    network.loseNextAnswer();
    network.break('cut in the answer', 1);
    const init = { method: 'POST', headers: json, body: JSON.stringify(payment) };
    const accepted = await idempotent(fetch, PATIENCE)(`${network.url}/v1/payouts`, init);
    expect(accepted.status).toBe(202);
    const job = await poll(accepted, {
      location: (body) => `/v1/jobs/${(body as { job_id: string }).job_id}`,
      isPending: (body) => (body as { state: string }).state !== 'completed',
      intervalMs: 100,
    });
    expect(await job.json()).toMatchObject({ state: 'completed' });
    expect(network.struck).toBe(2);
    const paidOut = await api.query('select status from payouts where destination = $1', [payment.destination]);
    expect(paidOut).toEqual([{ status: 'PAID' }]);
  });
});
