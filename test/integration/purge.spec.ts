import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Controller, Post } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Client } from 'pg';
import type { Repository } from 'typeorm';
import { IdempotencyRuntime } from '../../src/idempotency.runtime.js';
import { IdempotencyService, Idempotent, type PurgeOptions } from '../../src/index.js';
import { ExpiredKeys } from '../../src/postgres/statements/expired-keys.js';
import { PurgeService } from '../../src/purge/purge.service.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import { queryOn } from '../support/empty-database.js';
import { createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

/** The shortest interval there is: what runs by the clock is polled for. */
const INTERVAL_MS = 1_000;

@Controller()
class PurgingController {
  constructor(
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
    private readonly idempotency: IdempotencyService,
  ) {}

  @Post('purge-and-fail')
  @Idempotent()
  async purgeAndFail(): Promise<void> {
    await this.effects.save({ label: 'undone' });
    await this.effects.save({ label: `purged ${await this.idempotency.purge()}` });
    throw new Error('after the purge');
  }
}

let database: TestDatabase;
let started: { close(): Promise<void> }[];

beforeEach(async () => {
  started = [];
  database = await createTestDatabase();
});

afterEach(async () => {
  for (const { close } of started.toReversed()) await close();
  await database.drop();
});

async function start(purge: false | PurgeOptions): Promise<TestApp> {
  const test = await createTestApp({
    adapter: 'express',
    databaseUrl: database.url,
    idempotency: { purge },
    controllers: [PurgingController],
  });
  started.push(test);
  return test;
}

/** A session of somebody else's, next to the application's. */
async function connectClient(): Promise<Client> {
  const client = new Client(database.url);
  await client.connect();
  started.push({ close: () => client.end() });
  return client;
}

const query = <Row extends object>(sql: string, parameters: unknown[] = []) =>
  queryOn<Row>(database.url, sql, parameters);

/** Back-dated rather than waited for: `key1` expired a second ago, each further one a second before the last. */
async function insertExpired(count: number): Promise<void> {
  await insertKeys('key', `generate_series(1, ${count})`, `clock_timestamp() - n * interval '1 second'`);
}

async function insertKeys(prefix: string, numbers: string, expiresAt: string): Promise<void> {
  await query(
    `insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
       response_status, response_headers, response_body, response_bytes, created_at, expires_at)
     select '', '${prefix}' || n, decode(repeat('00', 32), 'hex'), 1, 'POST', '/payments', gen_random_uuid(),
       201, '[]', '', 0, clock_timestamp() - interval '2 days', ${expiresAt}
     from ${numbers} as n`,
  );
}

async function keys(): Promise<string[]> {
  const rows = await query<{ key: string }>('select key from idempotency_keys order by key');
  return rows.map(({ key }) => key);
}

/** From here on the database writes down which keys each DELETE took, and in which transaction. */
async function watchDeletes(): Promise<() => Promise<{ keys: string[]; transaction: string }[]>> {
  await query(`
    create table deletes (n int generated always as identity, keys text[], transaction text);
    create function note_delete() returns trigger language plpgsql as $$ begin
      insert into deletes (keys, transaction)
        select coalesce(array_agg(key order by key), '{}'), pg_current_xact_id()::text from gone;
      return null;
    end $$;
    create trigger note_delete after delete on idempotency_keys referencing old table as gone
      for each statement execute function note_delete();`);
  return () => query('select keys, transaction from deletes order by n');
}

/** From here on every DELETE waits until the answer is called. */
async function holdDeletes(): Promise<() => Promise<void>> {
  await query(`
    create function wait_for_release() returns trigger language plpgsql as $$ begin
      perform pg_advisory_xact_lock_shared(4711);
      return null;
    end $$;
    create trigger wait_for_release before delete on idempotency_keys
      for each statement execute function wait_for_release();`);
  const holder = await connectClient();
  await holder.query('select pg_advisory_lock(4711)');
  return async () => void (await holder.query('select pg_advisory_unlock(4711)'));
}

const deleteIsWaiting = () =>
  waitFor(
    async () => {
      const waiting = await query(
        `select 1 from pg_locks join pg_database d on d.oid = database
         where locktype = 'advisory' and not granted and datname = current_database()`,
      );
      return waiting.length > 0;
    },
    { what: 'a DELETE to wait' },
  );

describe('a purge', () => {
  it('deletes all keys that have expired by the clock of the database, and no others', async () => {
    const { app } = await start(false);
    await insertExpired(5);
    await insertKeys('just', 'generate_series(1, 1)', `clock_timestamp()`);
    await insertKeys('live', 'generate_series(1, 3)', `clock_timestamp() + n * interval '1 minute'`);

    await expect(app.get(IdempotencyService).purge()).resolves.toBe(6);
    await expect(keys()).resolves.toEqual(['live1', 'live2', 'live3']);
    await expect(app.get(IdempotencyService).purge()).resolves.toBe(0);
  });

  it('deletes the oldest first, in batches of the given size, each a transaction of its own', async () => {
    const { app } = await start({ batchSize: 2 });
    await insertExpired(5);
    const deletes = await watchDeletes();

    await expect(app.get(PurgeService).runOnce()).resolves.toBe(5);
    const batches = await deletes();
    expect(batches.map((batch) => batch.keys)).toEqual([['key4', 'key5'], ['key2', 'key3'], ['key1']]);
    expect(new Set(batches.map(({ transaction }) => transaction)).size).toBe(3);
  });

  it('deletes the steps of what has expired with it, and reads no others', async () => {
    const { app } = await start(false);
    const insert = (prefix: string, count: number, expiresAt: string) =>
      query(
        `with operations as (
           insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
             execution_id, attempt, created_at, expires_at)
           select '', $1 || n, decode(repeat('00', 32), 'hex'), 1, 'POST', '/', id, id, 1,
             clock_timestamp() - interval '2 days', ${expiresAt}
           from (select n, gen_random_uuid() as id from generate_series(1, ${count}) n) numbers
           returning execution_id, key)
         insert into idempotency_steps (execution_id, name, position, attempt, outcome, scope, key, created_at)
         select execution_id, 'step ' || n, 1, 1, '{}', '', key, clock_timestamp()
         from operations, generate_series(1, 3) n`,
        [prefix],
      );
    await insert('live', 2_000, `clock_timestamp() + interval '1 hour'`);
    await insert('expired', 5, `clock_timestamp()`);

    const client = await connectClient();
    await client.query('begin');
    const rowsOf = { query: async (sql: string, values?: unknown[]) => (await client.query(sql, values)).rows };
    expect((await new ExpiredKeys(rowsOf, 'public').purgeBatch(1_000)).deleted).toBe(5);
    const { rows } = await client.query<{ read: number }>(
      `select sum(pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid))::int4 as read
       from pg_class where oid = 'idempotency_steps'::regclass`,
    );
    await client.query('rollback');
    expect(rows).toEqual([{ read: 15 }]);

    await expect(app.get(IdempotencyService).purge()).resolves.toBe(5);
    const left = await query<{ key: string }>(`select distinct left(key, 4) as key from idempotency_steps`);
    expect(left).toEqual([{ key: 'live' }]);
  });

  it('looks once more after a batch that was just full, and then ends', async () => {
    const { app } = await start({ batchSize: 2 });
    await insertExpired(4);
    const deletes = await watchDeletes();

    await expect(app.get(PurgeService).runOnce()).resolves.toBe(4);
    expect((await deletes()).map((batch) => batch.keys.length)).toEqual([2, 2, 0]);
  });

  it('leaves a key alone that somebody has locked, without waiting for him', async () => {
    const { app } = await start(false);
    await insertExpired(3);
    const other = await connectClient();
    await other.query(`begin; select from idempotency_keys where key = 'key2' for update`);

    await expect(app.get(IdempotencyService).purge()).resolves.toBe(2);
    await expect(keys()).resolves.toEqual(['key2']);
    await other.query('rollback');
    await expect(app.get(IdempotencyService).purge()).resolves.toBe(1);
  });

  it('leaves the work to another one of the same cluster, and answers at once', async () => {
    const { app } = await start({ batchSize: 2 });
    await insertExpired(5);
    const other = await connectClient();
    await other.query('begin');
    const elsewhere = { query: async (sql: string, values?: unknown[]) => (await other.query(sql, values)).rows };
    await new ExpiredKeys(elsewhere, 'public').purgeBatch(1);

    // The other transaction stays open: had it to be waited for, this would never resolve.
    await expect(app.get(IdempotencyService).purge()).resolves.toBe(0);
    await other.query('rollback');
    await expect(keys()).resolves.toHaveLength(5);
    await expect(app.get(IdempotencyService).purge()).resolves.toBe(5);
  });

  it('finishes the batch that is under way when the application is closed, and begins no other', async () => {
    const { app, logs } = await start({ batchSize: 1 });
    await insertExpired(3);
    const release = await holdDeletes();

    const purged = app.get(IdempotencyService).purge();
    await deleteIsWaiting();
    const closed = app.close();
    await release();

    await expect(purged).resolves.toBe(1);
    await closed;
    await expect(keys()).resolves.toEqual(['key1', 'key2']);
    expect(logs).toEqual([]);
  });

  it('does not join the transaction of the handler that calls it', async () => {
    const test = await start(false);
    await insertExpired(2);
    const deletes = await watchDeletes();

    expect((await test.post('/purge-and-fail', 'abc')).status).toBe(500);
    await expect(test.effects()).resolves.toEqual([]);
    await expect(keys()).resolves.toEqual([]);
    expect((await deletes()).map((batch) => batch.keys)).toEqual([['key1', 'key2']]);
  });
});

describe('the scheduled purge', () => {
  it('runs by itself, again and again', async () => {
    const { logs } = await start({ intervalMs: INTERVAL_MS });
    for (const round of ['first', 'second']) {
      await insertKeys(round, 'generate_series(1, 2)', `clock_timestamp() - interval '1 hour'`);
      await waitFor(async () => (await keys()).length === 0, { what: `the ${round} purge` });
    }
    expect(logs).toEqual([]);
  });

  it('logs an error, and goes on', async () => {
    const { logs } = await start({ intervalMs: INTERVAL_MS });
    await insertExpired(2);
    await query('alter table idempotency_keys rename to hidden');
    await waitFor(() => logs.length > 0, { what: 'the error' });
    expect(logs[0]).toContain('relation "public.idempotency_keys" does not exist');

    await query('alter table hidden rename to idempotency_keys');
    await waitFor(async () => (await keys()).length === 0, { what: 'the next purge' });
  });

  it('finishes its batch before the DataSource is closed, and begins no other', async () => {
    const { app, logs } = await start({ intervalMs: INTERVAL_MS, batchSize: 1 });
    await insertExpired(3);
    const release = await holdDeletes();

    await deleteIsWaiting();
    const closed = app.close();
    await release();
    await closed;
    await expect(keys()).resolves.toEqual(['key1', 'key2']);
    expect(logs).toEqual([]);
  });

  it.each([
    ['nothing', undefined, 10 * 60 * 1_000],
    ['no member', {}, 10 * 60 * 1_000],
    ['only undefined', { intervalMs: undefined, batchSize: undefined }, 10 * 60 * 1_000],
    ['an interval', { intervalMs: 60_000 }, 60_000],
  ])(
    'of which %s was said comes at its interval, give or take a tenth, and keeps no process alive',
    async (_, purge, intervalMs) => {
      const test = await createTestApp({
        adapter: 'express',
        databaseUrl: database.url,
        idempotency: { purge: purge as PurgeOptions },
      });
      started.push(test);
      const runtime = test.app.get(IdempotencyRuntime);

      const setTimer = jest.spyOn(globalThis, 'setTimeout');
      try {
        for (let instance = 0; instance < 50; instance++) {
          const service = new PurgeService(runtime);
          service.onApplicationBootstrap();
          await service.beforeApplicationShutdown();
        }
        const delays = setTimer.mock.calls.map(([, delayMs]) => delayMs!);
        const timers = setTimer.mock.results.map(({ value }) => value as NodeJS.Timeout);
        expect(delays).toHaveLength(50);
        expect(Math.min(...delays)).toBeGreaterThanOrEqual(intervalMs * 0.9);
        expect(Math.max(...delays)).toBeLessThanOrEqual(intervalMs * 1.1);
        expect(new Set(delays).size).toBeGreaterThan(1);
        expect(timers.map((timer) => timer.hasRef())).not.toContain(true);
      } finally {
        setTimer.mockRestore();
      }
    },
  );

  it('has its timer stopped when the application is closed', async () => {
    const { app } = await start({ intervalMs: INTERVAL_MS });
    const runtime = app.get(IdempotencyRuntime);

    jest.useFakeTimers();
    try {
      const service = new PurgeService(runtime);
      service.onApplicationBootstrap();
      expect(jest.getTimerCount()).toBe(1);
      await service.beforeApplicationShutdown();
      expect(jest.getTimerCount()).toBe(0);
    } finally {
      jest.useRealTimers();
    }
  });

  it('is not there when `purge` is false, while one by hand still works', async () => {
    const { app } = await start(false);
    await insertExpired(2);
    const runtime = app.get(IdempotencyRuntime);

    jest.useFakeTimers();
    try {
      new PurgeService(runtime).onApplicationBootstrap();
      expect(jest.getTimerCount()).toBe(0);
    } finally {
      jest.useRealTimers();
    }
    await expect(app.get(IdempotencyService).purge()).resolves.toBe(2);
  });
});
