import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Test } from '@nestjs/testing';
import { ADAPTERS } from '../support/test-app.js';
import { PaymentsApi } from './payments-api.js';
import { pay as axiosRetry } from './recipes/axios-retry.js';
import { pay as got } from './recipes/got.js';
import { pay as ky } from './recipes/ky.js';
import { PaymentsClient, PaymentsClientModule } from './recipes/nestjs-axios.js';
import { pay as pRetry } from './recipes/p-retry.js';
import type { Recipe } from './recipes/recipe.js';
import { pay as undiciRetryAgent } from './recipes/undici-retry-agent.js';

const nestjsAxios: Recipe = async (url, payment, key) => {
  const module = await Test.createTestingModule({ imports: [PaymentsClientModule] }).compile();
  return module.get(PaymentsClient).pay(url, payment, key);
};

const RECIPES: Record<string, Recipe> = {
  'axios-retry': axiosRetry,
  'nestjs-axios': nestjsAxios,
  'undici-retry-agent': undiciRetryAgent,
  ky,
  got,
  'p-retry': pRetry,
};

describe.each(ADAPTERS)('clients that people already have, with %s', (adapter) => {
  let api: PaymentsApi;

  beforeAll(async () => {
    api = await PaymentsApi.start(adapter);
  });

  afterAll(() => api.close());

  async function payThrough(name: string, place: 'cut before the answer' | 'cut behind the message', query = '') {
    const network = await api.network();
    const payment = api.payment();
    network.break(place);
    const answer = await RECIPES[name]!(`${network.url}/v1/payments${query}`, payment, randomUUID());
    return { name, ...answer, struck: network.struck, effects: await api.effects(payment) };
  }

  it.each(Object.keys(RECIPES))('%s pays once through a network that loses the first answer', async (name) => {
    expect(await payThrough(name, 'cut before the answer')).toEqual({
      name,
      status: 201,
      body: expect.objectContaining({ status: 'PENDING' }),
      struck: 1,
      effects: 1,
    });
  });

  it('they wait for a first request that still runs when it is retried (409)', async () => {
    const answers = await Promise.all(
      Object.keys(RECIPES).map((name) => payThrough(name, 'cut behind the message', '?delay_ms=900')),
    );
    expect(answers.map(({ name, status, struck, effects }) => ({ name, status, struck, effects }))).toEqual(
      Object.keys(RECIPES).map((name) => ({ name, status: 201, struck: 1, effects: 1 })),
    );
  });

  it.each(Object.keys(RECIPES))('%s does not repeat what was refused for good (422)', async (name) => {
    const network = await api.network();
    const [first, second] = [api.payment(), api.payment()];
    const key = randomUUID();
    const pay = RECIPES[name]!;
    await pay(`${network.url}/v1/payments`, first, key);
    await expect(pay(`${network.url}/v1/payments`, second, key)).rejects.toThrow(/422|Request failed/);
    expect([await api.effects(first), await api.effects(second)]).toEqual([1, 0]);
  });
});

it.each(Object.keys(RECIPES))('docs/client.md shows the recipe of %s as it is tested', (name) => {
  const source = readFileSync(new URL(`./recipes/${name}.ts`, import.meta.url), 'utf8');
  const shown = source
    .replace(/^import type \{.*\} from '\.\/recipe\.js';\n/m, '')
    .replaceAll('const pay: Recipe =', 'const pay =')
    .trim();
  expect(readFileSync('docs/client.md', 'utf8')).toContain(shown);
});
