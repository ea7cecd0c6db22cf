import { Body, Controller, Post } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { InjectDataSource } from '@nestjs/typeorm';
import { Client, type Pool } from 'pg';
import { DataSource } from 'typeorm';
import { Idempotent } from '../../src/index.js';
import { queriesOn } from '../support/empty-database.js';
import { createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

const POOL_SIZE = 4;

interface Work {
  sql?: string;
}

@Controller()
class Routes {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('transaction')
  @Idempotent({ timeoutMs: 400 })
  async transaction(@Body() { sql }: Work): Promise<string> {
    await this.dataSource.query(`insert into effects (label) values ('written')`);
    if (sql !== undefined) await this.dataSource.query(sql);
    return 'done';
  }
}

describe.each([false, true])('a time limit, with pipeline: %s', (pipeline) => {
  let test: TestApp;
  let observer: Client;

  beforeAll(async () => {
    test = await createTestApp({
      adapter: 'express',
      controllers: [Routes],
      poolSize: POOL_SIZE,
      extra: { pipeline },
      instances: 1,
      idempotency: { purge: false },
    });
    observer = new Client(test.databaseUrl);
    await observer.connect();
    await queriesOn(test.databaseUrl, [
      'create table slow (id int)',
      `create function sleep_at_commit() returns trigger language plpgsql as $$ begin perform pg_sleep(1.2); return null; end $$`,
      `create constraint trigger slow_commit after insert on slow deferrable initially deferred
        for each row execute function sleep_at_commit()`,
    ]);
  });

  beforeEach(() => observer.query('truncate effects, slow'));

  afterEach(async () => {
    const { master: pool } = test.dataSource.driver as unknown as { master: Pool };
    await waitFor(() => pool.idleCount === pool.totalCount, { what: 'the connections to be back in the pool' });
  });

  afterAll(async () => {
    await observer.end();
    await test.close();
  });

  async function busyBackends(): Promise<number> {
    const { rows } = await observer.query<{ count: number }>(
      `select count(*)::int4 as count from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid() and state = 'active'
         and backend_type = 'client backend'
         and application_name not like 'citus_internal%'`, // those of a Citus node to itself
    );
    return rows[0]!.count;
  }

  it('ends the statement, and the key is usable within a second', async () => {
    expect((await test.post('/transaction', 'k', { sql: 'select pg_sleep(60)' })).status).toBe(503);
    const since = performance.now();
    await waitFor(async () => (await busyBackends()) === 0, { what: 'the statement to be cancelled' });
    await waitFor(
      async () => {
        const { status } = await test.post('/transaction', 'k', { sql: 'select pg_sleep(60)' });
        return status === 503;
      },
      { what: 'the key to be claimed again' },
    );

    expect(performance.now() - since).toBeLessThan(1_000 + 400);
    expect(await test.effects()).toEqual([]);
  });

  it('lets no more statements run than the pool has connections', async () => {
    const storm = Array.from({ length: 3 * POOL_SIZE }, (_, index) =>
      test.post('/transaction', `storm-${index}`, { sql: 'select pg_sleep(60)' }),
    );
    let most = 0;
    let isOver = false;
    const all = Promise.all(storm).finally(() => (isOver = true));
    await waitFor(
      async () => {
        most = Math.max(most, await busyBackends());
        return isOver;
      },
      { what: 'all requests to be answered', timeoutMs: 30_000 },
    );

    expect(new Set((await all).map(({ status }) => status))).toEqual(new Set([503]));
    expect(most).toBeLessThanOrEqual(POOL_SIZE);
    expect(await test.effects()).toEqual([]);
  });

  it('ends a statement that waits for a lock', async () => {
    const locker = new Client(test.databaseUrl);
    await locker.connect();
    await locker.query('begin; lock table slow');
    expect((await test.post('/transaction', 'locked', { sql: 'insert into slow values (1)' })).status).toBe(503);
    await waitFor(async () => (await busyBackends()) === 0, { what: 'the statement to be cancelled' });
    await locker.end();
  });

  it('never cancels a COMMIT', async () => {
    const key = 'at commit';
    const { status } = await test.post('/transaction', key, { sql: 'insert into slow values (1)' });

    expect([201, 503]).toContain(status); // by what is known when the limit comes: the COMMIT takes place all the same
    await waitFor(async () => (await test.effects()).length > 0, { what: 'the COMMIT' });
    const retry = await test.post('/transaction', key, { sql: 'insert into slow values (1)' });
    expect(retry.status).toBe(201);
    expect(retry.headerLines).toContain('Idempotency-Replayed: true');
    expect(await test.effects()).toEqual(['written']);
  });
});
