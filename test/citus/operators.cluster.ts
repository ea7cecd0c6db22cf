import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type { ExecutionContext } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { idempotencyMigrations } from '../../migrations/index.js';
import { IdempotencyRuntime } from '../../src/idempotency.runtime.js';
import { IdempotencyService } from '../../src/index.js';
import { CITUS_KINDS, OTHER_CITUS_KINDS } from '../support/citus.js';
import { runCliHere } from '../support/cli.js';
import type { TestDatabase } from '../support/database.js';
import { createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';
import { databaseOf, Order, ORDERS, rowsOn, ShopController, urlsOf } from './shop.js';

/** Enough for rows in every shard. */
const KEYS = 24;

const PAGE_BYTES = 8_192;

/** More than any purge leaves behind that is followed by a vacuum. */
const DEAD_ROWS = 12_000;

/** What may be said of a cluster that was set up for tests. */
const OF_A_SERVER_FOR_TESTS = ['fsync', 'full_page_writes'];

const callerOf = (context: ExecutionContext): string =>
  context.switchToHttp().getRequest<{ headers: Record<string, string> }>().headers['x-user'] ?? '';

describe.each([...CITUS_KINDS, ...OTHER_CITUS_KINDS])('what operators ask of keys in %s tables', (kind) => {
  let database: TestDatabase;
  let test: TestApp;
  let service: IdempotencyService;

  beforeAll(async () => {
    database = await databaseOf(kind);
    await rowsOn(database.url, ORDERS);
    test = await createTestApp({
      adapter: 'fastify',
      databaseUrl: database.url,
      instances: 1,
      controllers: [ShopController],
      entities: [Order],
      imports: [TypeOrmModule.forFeature([Order])],
      idempotency: { purge: false, scope: callerOf },
    });
    service = test.app.get(IdempotencyService);
  });

  afterEach(() => rowsOn(database.url, 'truncate idempotency_keys; truncate idempotency_steps'));

  afterAll(async () => {
    await test.close();
    await database.drop();
  });

  const post = (path: string, key: string, user: string) => test.post(path, key, {}, [['x-user', user]]);

  async function answered(paths: string[], user: string): Promise<string[]> {
    const all = Array.from({ length: KEYS }, (_, n) => post(paths[n % paths.length]!, `key ${n}`, user));
    const answers = await Promise.all(all);
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([201]));
    return answers.map(({ body }) => body.toString());
  }

  const scopes = () =>
    rowsOn(database.url, 'select scope, count(*)::int4 as keys from idempotency_keys group by scope order by scope');

  const remembered = () => rowsOn(database.url, 'select scope from idempotency_steps');

  /** Of every table that holds keys, shards and all. */
  async function columns(): Promise<Set<string>> {
    const all = await Promise.all(
      urlsOf(database.url).map((url) =>
        rowsOn<{ columns: string }>(
          url,
          `select string_agg(attname, ' ' order by attname) as columns from pg_attribute
           where attrelid::regclass::text ~ '^idempotency_keys' and attnum > 0 and not attisdropped
             and attrelid in (select oid from pg_class where relkind in ('r', 'p'))
           group by attrelid`,
        ),
      ),
    );
    return new Set(all.flat().map((row) => row.columns));
  }

  it('forgetScope leaves nothing of a person, with the steps, and all of the others', async () => {
    await answered(['/orders', '/leases'], 'ada');
    await answered(['/orders'], 'bob');
    await post('/failing-leases', 'unfinished', 'ada');
    await post('/failing-leases', 'unfinished', 'bob');
    await expect(service.forgetScope('ada')).resolves.toBe(KEYS + 1);
    await expect(service.forgetScope('ada')).resolves.toBe(0);
    await expect(scopes()).resolves.toEqual([{ scope: 'bob', keys: KEYS + 1 }]);
    await expect(remembered()).resolves.toEqual([{ scope: 'bob' }]);
    await expect(service.forget('unfinished', 'bob')).resolves.toBe(true);
    await expect(remembered()).resolves.toEqual([]);
  });

  it('the pulse tells what is due, for how long, and what waits for an operator', async () => {
    await answered(['/orders'], 'ada');
    await rowsOn(
      database.url,
      `update idempotency_keys set created_at = now() - interval '3 h', expires_at = now() - interval '1 h'
       where key in ('key 1', 'key 2', 'key 3')`,
    );
    await post('/failing-leases', 'unfinished', 'ada');
    await rowsOn(
      database.url,
      `update idempotency_keys set lease_expires_at = now(), expires_at = 'infinity' where key = 'unfinished'`,
    );
    const pulse = await test.app.get(IdempotencyRuntime).takePulse();
    expect(pulse).toEqual({ writable: true, expired: 3, purgeLagMs: expect.closeTo(3_600_000, -5), waiting: 1 });
    await expect(service.purge()).resolves.toBe(3);
    const after = await test.app.get(IdempotencyRuntime).takePulse();
    expect(after).toEqual({ writable: true, expired: 0, purgeLagMs: 0, waiting: 1 });
  });

  it('the commands list, show, count and look for what is wrong', async () => {
    await answered(['/orders', '/leases'], 'ada');
    await post('/failing-leases', 'unfinished', 'ada');
    const run = async (...args: string[]): Promise<unknown> => {
      const { stdout, stderr } = await runCliHere([...args, '--url', database.url, '--json']);
      expect(stderr).toBe('');
      return JSON.parse(stdout);
    };
    expect((await run('list', '--state', 'released')) as object).toMatchObject({ keys: [{ key: 'unfinished' }] });
    expect((await run('show', 'ada', 'unfinished')) as object).toMatchObject({ steps: [{ name: 'order' }] });
    const stats = (await run('stats')) as object;
    expect(stats).toMatchObject({
      rows: KEYS + 1,
      states: { completed: KEYS, released: 1 },
      scopes: [{ scope: 'ada', keys: KEYS + 1 }],
    });
    // What is in the shards, each of which takes a page at the least: the tables themselves are empty.
    const { disk } = stats as { disk: Record<string, number> };
    expect(Math.min(disk['keysBytes']!, disk['indexesBytes']!, disk['stepsBytes']!)).toBeGreaterThan(PAGE_BYTES);
    // Of the tables and what is in them there is nothing to say.
    const { findings } = (await run('doctor')) as { findings: { check: string }[] };
    expect(findings.filter(({ check }) => !OF_A_SERVER_FOR_TESTS.includes(check))).toEqual([]);
  });

  it('the doctor sees dead rows in the shards', async () => {
    await rowsOn(
      database.url,
      `insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id, response_status,
         response_headers, response_body, response_bytes, created_at, expires_at)
       select '', 'k' || n, sha256('x'), 1, 'POST', '/', gen_random_uuid(), 201, '[]', '', 0, now(), now() + interval '1 hour'
       from generate_series(1, ${DEAD_ROWS}) n`,
    );
    await rowsOn(database.url, `delete from idempotency_keys where key like 'k%'`);
    const checks = async (): Promise<string[]> => {
      const { stdout } = await runCliHere(['doctor', '--url', database.url, '--json']);
      const { findings } = JSON.parse(stdout) as { findings: { check: string; problem: string }[] };
      return findings.filter(({ check }) => check === 'bloat').map(({ problem }) => problem);
    };
    const [found] = await waitFor(async () => ((await checks()).length > 0 ? checks() : undefined), {
      what: 'what the servers count to be told',
    });
    expect(found).toBe(`idempotency_keys has ${DEAD_ROWS} dead rows beside 0 live ones`);
    await rowsOn(database.url, 'vacuum idempotency_keys');
    await waitFor(async () => ((await checks()).length === 0 ? true : undefined), { what: 'the remedy to be seen' });
  });

  it('migrations alter the tables as they stand, back and forth, without losing a key', async () => {
    const first = await answered(['/orders'], 'ada');
    const migrations = idempotencyMigrations;
    const dataSource = await new DataSource({ type: 'postgres', url: database.url, migrations }).initialize();
    try {
      const before = await columns();
      await dataSource.undoLastMigration();
      const reverted = await columns();
      await expect(dataSource.runMigrations()).resolves.toMatchObject([{ name: 'AddTraceContext1763942400000' }]);
      // On each node, and the same in each shard.
      expect([...before].map((all) => all.replace(' trace_context', ''))).toEqual([...reverted]);
      await expect(columns()).resolves.toEqual(before);
      expect(before.size).toBe(1);
    } finally {
      await dataSource.destroy();
    }
    await expect(answered(['/orders'], 'ada')).resolves.toEqual(first);
  });
});
