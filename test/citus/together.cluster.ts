import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { TypeOrmModule } from '@nestjs/typeorm';
import { IdempotencyService } from '../../src/index.js';
import { CITUS_KINDS, OTHER_CITUS_KINDS } from '../support/citus.js';
import type { TestDatabase } from '../support/database.js';
import type { RawResponse } from '../support/raw-http.js';
import { createTestApp, inTurn, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';
import { crash, databaseOf, Order, ORDERS, rowsOn, ShopController, urlsOf } from './shop.js';

const STORM = { keys: 40, duplicates: 6 };
const KILLS = { rounds: 6, clients: 8, everyMs: 2_500 };

describe.each([...CITUS_KINDS, ...OTHER_CITUS_KINDS])('keys in %s tables, beside orders on other nodes', (kind) => {
  let database: TestDatabase;
  let apps: TestApp[];

  beforeAll(async () => {
    database = await databaseOf(kind);
    await rowsOn(database.url, ORDERS);
    // One application is connected to the coordinator, the other to a worker: neither sees the other's advisory locks.
    apps = [];
    for (const databaseUrl of urlsOf(database.url).slice(0, 2)) {
      apps.push(
        await createTestApp({
          adapter: 'express',
          databaseUrl,
          instances: 1,
          controllers: [ShopController],
          entities: [Order],
          synchronize: databaseUrl === database.url,
          imports: [TypeOrmModule.forFeature([Order])],
          idempotency: { purge: false, timeoutMs: 10_000 },
        }),
      );
    }
  });

  afterAll(async () => {
    for (const app of apps) {
      await app.close();
    }
    await database.drop();
  });

  const orders = async (): Promise<Map<string, number>> => {
    const rows = await rowsOn<{ key: string; count: number }>(
      database.url,
      'select key, count(*)::int4 as count from orders group by key',
    );
    return new Map(rows.map(({ key, count }) => [key, count]));
  };

  const isReplay = ({ headerLines }: RawResponse) => headerLines.includes('Idempotency-Replayed: true');

  async function untilAnswered(ask: () => Promise<RawResponse>): Promise<RawResponse> {
    return waitFor(
      async () => {
        const answer = await ask().catch(() => undefined);
        return answer?.status === 201 ? answer : undefined;
      },
      { what: 'the answer', timeoutMs: 60_000 },
    );
  }

  it.each(['/orders', '/leases'])('run once, also where two nodes are asked at the same time: %s', async (path) => {
    const statuses = new Set<number>();
    for (let n = 0; n < STORM.keys; n++) {
      const key = `${path} storm ${n}`;
      const next = inTurn(apps);
      const answers = await Promise.all(Array.from({ length: STORM.duplicates }, () => next().post(path, key, { n })));
      answers.forEach(({ status }) => statuses.add(status));
      expect([n, answers.some(({ status }) => status === 201)]).toEqual([n, true]); // none of them stands in the way of all
      const first = await untilAnswered(() => apps[0]!.post(path, key, { n }));
      const others = answers.filter(({ status, body }) => status === 201 && !body.equals(first.body));
      expect(others.map(({ body }) => body.toString())).toEqual([]);
    }
    expect([...statuses].filter((status) => ![201, 409, 503].includes(status))).toEqual([]);
    const counted = await orders();
    for (let n = 0; n < STORM.keys; n++) {
      expect([n, counted.get(`${path} storm ${n}`)]).toEqual([n, 1]);
    }
  });

  it('are purged when they have expired, with their steps', async () => {
    await apps[0]!.post('/orders', 'stays');
    await apps[0]!.post('/orders', 'expires');
    await rowsOn(
      database.url,
      `update idempotency_keys set created_at = '2020-01-01', expires_at = '2020-01-02' where key = 'expires' and scope = ''`,
    );
    await expect(apps[0]!.app.get(IdempotencyService).purge()).resolves.toBe(1);
    const kept = await rowsOn(database.url, `select key from idempotency_keys where key in ('stays', 'expires')`);
    expect(kept).toEqual([{ key: 'stays' }]);
  });

  it('and the orders are both there or neither, whichever node crashes', async () => {
    const nodes = inTurn(urlsOf(database.url));
    const answers = new Map<string, Buffer>();
    const asked: { key: string; path: string }[] = [];
    const storm = new AbortController();
    const client = async (id: number): Promise<void> => {
      const next = inTurn(apps);
      for (let n = 0; !storm.signal.aborted; n++) {
        const ask = { key: `crash ${id} ${n}`, path: n % 2 === 0 ? '/orders' : '/leases' };
        asked.push(ask);
        const answer = await next()
          .post(ask.path, ask.key, ask)
          .catch(() => undefined);
        if (answer?.status === 201) {
          answers.set(ask.key, answer.body);
        }
      }
    };
    const clients = Array.from({ length: KILLS.clients }, (_, id) => client(id));
    for (let round = 0; round < KILLS.rounds; round++) {
      await delay(KILLS.everyMs); // traffic, not a state
      const node = nodes();
      await crash(node);
      await waitFor(() => rowsOn(node, 'select 1').catch(() => undefined), { what: 'the node', timeoutMs: 60_000 });
    }
    storm.abort();
    await Promise.all(clients);
    await waitFor(() => rowsOn(database.url, 'select recover_prepared_transactions()').catch(() => undefined), {
      what: 'what was prepared to be decided',
      timeoutMs: 60_000,
    });
    expect(answers.size).toBeGreaterThan(50);
    for (const { key, path } of asked) {
      const body = (await untilAnswered(() => apps[0]!.post(path, key, { key, path }))).body;
      const told = answers.get(key) ?? body;
      expect([key, body.toString()]).toEqual([key, told.toString()]);
      expect(isReplay(await apps[1]!.post(path, key, { key, path }))).toBe(true);
    }
    const counted = await orders();
    expect(asked.filter(({ key }) => counted.get(key) !== 1)).toEqual([]);
  }, 300_000);
});
