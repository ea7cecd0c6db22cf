import { Controller, Param, Post } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client, type Pool } from 'pg';
import { DataSource } from 'typeorm';
import { deferred, type Deferred } from '../../src/util/deferred.js';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { CountingProxy } from '../support/counting-proxy.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

let entered: number;
let gate: Deferred<void>;

@Controller()
class Routes {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('plain')
  plain() {
    return this.dataSource.transaction((manager) => manager.insert(Effect, { label: 'plain' }));
  }

  @Post('transaction')
  @Idempotent()
  transaction() {
    return this.dataSource.getRepository(Effect).insert({ label: 'transaction' });
  }

  @Post('slow')
  @Idempotent()
  async slow() {
    entered++;
    await gate.promise;
  }

  @Post('steps/:count')
  @Idempotent({ mode: 'lease' })
  async steps(@IdempotencyContext() context: IdempotencyContext, @Param('count') count: string) {
    for (let step = 0; step < Number(count); step++) await context.step(`step ${step}`, () => step);
  }
}

/** Requests that have got to the interceptor: what they do next they do before anything else happens. */
function countAccepted() {
  const hook = Symbol.for('nestjs-idempotency.failpoint');
  const hooks = globalThis as { [hook]?: (name: string) => void };
  const accepted = {
    count: 0,
    stop: () => {
      delete hooks[hook];
    },
  };
  hooks[hook] = (name) => {
    accepted.count += Number(name === 'request: accepted');
  };
  return accepted;
}

describe.each(ADAPTERS)('on %s, the round trips to PostgreSQL', (adapter) => {
  let database: TestDatabase;
  let proxy: CountingProxy;
  let test: TestApp;

  beforeAll(async () => {
    entered = 0;
    gate = deferred();
    database = await createTestDatabase();
    proxy = await CountingProxy.start(database.url);
    const idempotency = { purge: false } as const;
    test = await createTestApp({ adapter, controllers: [Routes], databaseUrl: proxy.url, instances: 1, idempotency });
  });

  afterAll(async () => {
    await test.close();
    await proxy.stop();
    await database.drop();
  });

  const count = (path: string, key: string) => proxy.count(() => test.post(path, key));

  it('of a first request are those of a plain transaction, of a replay one', async () => {
    expect(await count('/plain', '')).toBe(3);
    expect(await count('/transaction', 'k')).toBe(3);
    for (let replay = 0; replay < 3; replay++) {
      expect(await count('/transaction', 'k')).toBe(1);
    }
  });

  it('of a duplicate of a running request are one; of the first in another process one more, not waited for', async () => {
    const inside = (requests: number) =>
      waitFor(() => entered === requests, { what: `${requests} requests inside their handlers` });
    const twoConnections = [test.post('/slow', 'one'), test.post('/slow', 'two')];
    await inside(2);
    gate.resolve();
    await Promise.all(twoConnections);
    const elsewhere = await createTestApp({
      adapter,
      controllers: [Routes],
      databaseUrl: database.url,
      instances: 1,
      idempotency: { purge: false },
    });
    gate = deferred();
    try {
      const here = test.post('/slow', 'here');
      const there = elsewhere.post('/slow', 'there');
      await inside(4);
      for (let duplicate = 0; duplicate < 3; duplicate++) {
        expect(await proxy.count(async () => expect((await test.post('/slow', 'here')).status).toBe(409))).toBe(1);
      }
      const before = proxy.flights;
      expect((await test.post('/slow', 'there')).status).toBe(409);
      await waitFor(() => proxy.flights === before + 2, { what: 'the end of the transaction that only looked' });
      const pool = (test.dataSource.driver as unknown as { master: Pool }).master;
      await waitFor(() => pool.idleCount === pool.totalCount - 1, { what: 'its connection to be back in the pool' });
      for (let duplicate = 0; duplicate < 3; duplicate++) {
        expect(await proxy.count(async () => expect((await test.post('/slow', 'there')).status).toBe(409))).toBe(1);
      }
      gate.resolve();
      expect((await here).status).toBe(201);
      const { status, body } = await there;
      expect(status).toBe(201);
      const replay = await test.post('/slow', 'there');
      expect([replay.status, replay.body]).toEqual([201, body]);
      expect(replay.headerLines).toContain('Idempotency-Replayed: true');
    } finally {
      gate.resolve();
      await elsewhere.close();
    }
  });

  it('of retries of one key at the same time are as many as connections, and one that all others share', async () => {
    const poolSize = 3;
    const own = await CountingProxy.start(database.url);
    const options = { adapter, controllers: [Routes], databaseUrl: own.url, idempotency: { purge: false as const } };
    const small = await createTestApp({ ...options, instances: 1, poolSize });
    const blocker = new Client({ connectionString: database.url });
    await blocker.connect();
    const accepted = countAccepted();
    const retry = () => small.post('/transaction', 'storm');
    const { body } = await retry();
    const looking = async () => {
      const { rows } = await blocker.query<{ count: number }>(
        `select count(*)::int4 as count from pg_locks where relation = 'idempotency_keys'::regclass and not granted`,
      );
      return rows[0]!.count;
    };

    /** Nobody gets an answer before everybody has asked. */
    const storm = async () => {
      await blocker.query('begin');
      await blocker.query('lock table idempotency_keys in access exclusive mode');
      accepted.count = 0;
      const retries: ReturnType<typeof retry>[] = [];
      for (let connection = 1; connection <= poolSize; connection++) {
        retries.push(retry()); // does not wait for the answer to the one before it
        await waitFor(async () => (await looking()) === connection, { what: `look ${connection} at the key` });
      }
      retries.push(...Array.from({ length: 37 }, retry));
      await waitFor(() => accepted.count === retries.length, { what: 'every retry in the interceptor' });
      await blocker.query('commit');
      return Promise.all(retries);
    };
    try {
      await storm(); // opens all connections of the pool
      const before = own.flights;
      const answers = await storm();
      expect(own.flights - before).toBe(poolSize + 1);
      expect(answers.every((answer) => answer.status === 201 && answer.body.equals(body))).toBe(true);
    } finally {
      accepted.stop();
      await blocker.end();
      await small.close();
      await own.stop();
    }
  });

  it('of the first lease of a process are those of a connection of its own, once', async () => {
    const opened = proxy.connections;
    await test.post('/steps/0', 'the first lease');
    await waitFor(() => proxy.connections === opened + 1, { what: 'the connection for leases to be opened' });
    await waitFor(
      async () => {
        const [{ idle }] = (await test.dataSource.query(
          "select count(*)::int as idle from pg_stat_activity where datname = current_database() and state = 'idle'",
        )) as [{ idle: number }];
        return idle === proxy.connections - 1; // all but the one that asks
      },
      { what: 'all connections to be idle' },
    );
    expect(proxy.connections).toBe(opened + 1);
  });

  it.each([0, 1, 5])('in lease mode are two, for claim and record, and one for each of %d steps', async (steps) => {
    expect(await count(`/steps/${steps}`, `steps ${steps}`)).toBe(1 + steps + 1);
    expect(await count(`/steps/${steps}`, `steps ${steps}`)).toBe(1);
  });
});
