import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { Migrator } from '../../../src/migrate/migrate.js';
import { assertUsable, findKeyTables } from '../../../src/postgres/statements/key-tables.js';
import type { Catalogue } from '../../support/catalogue.js';
import { HAND_MADE, type HandMade, partitionByHand } from '../../support/hand-made-partitions.js';
import { runCli } from '../../support/cli.js';
import { queryOn } from '../../support/empty-database.js';
import { waitFor } from '../../support/wait-for.js';
import { catalogues, database, NAMES, open, withAnEmptyDatabaseEach } from './lab.js';

let migrator: Migrator;
let client: Client;

afterEach(() => client.end()); // before its database goes
withAnEmptyDatabaseEach();

/** More than are copied at a time. */
const KEYS = 6_000;
const PATIENCE = { lockTimeoutMs: 100, pauseMs: 50, tries: 200 };

const query = <Row extends object>(sql: string, parameters: unknown[] = []) =>
  queryOn<Row>(database.url, sql, parameters);

const keyRow = (key: string): string => `'', ${key}, sha256('x'), 1, 'POST', '/', gen_random_uuid(), null, null, null,
  null, now(), now() + interval '1 hour', gen_random_uuid(), 1, now() + interval '1 minute', null`;

beforeEach(async () => {
  migrator = new Migrator(await open(), undefined, undefined, PATIENCE);
  await migrator.run();
  await query(`insert into idempotency_keys select ${keyRow("'k' || n")} from generate_series(1, ${KEYS}) n`);
  await query(
    `insert into idempotency_steps select execution_id, 'charge', 1, 1, '{}', scope, key, now() from idempotency_keys`,
  );
  client = new Client(database.url);
  await client.connect();
});

/** As psql does, each by itself. @param before is called before each, with the statement */
async function run(count: number, before: (statement: string) => Promise<unknown> = async () => undefined) {
  for (const statement of await migrator.partitionSql(count)) {
    await before(statement);
    await client.query(statement);
  }
}

async function content(): Promise<unknown> {
  const [keys] = await query(
    `select count(*)::int4 as count, md5(string_agg(k::text, '|' order by scope, key)) as rows from idempotency_keys k`,
  );
  const [steps] = await query(
    `select count(*)::int4 as count, md5(string_agg(s::text, '|' order by execution_id, name)) as rows
     from idempotency_steps s`,
  );
  return { keys, steps };
}

/** An index of a table with partitions is one `on only` this table. */
const likePlain = (all: (Catalogue | undefined)[]): unknown =>
  JSON.parse(JSON.stringify(all).replaceAll(' ON ONLY ', ' ON '));

describe('the tables in HASH partitions', () => {
  it('have all rows, and the same columns, constraints, indexes and comments; and so back again, in any number', async () => {
    const [plain, rows] = [await catalogues(), await content()];
    for (const count of [8, 3, 0]) {
      await run(count);
      expect(await content()).toEqual(rows);
      expect(likePlain(await catalogues())).toEqual(plain);
      expect(await migrator.split()).toEqual(count === 0 ? { partitions: 0 } : { partitions: count, by: 'HASH (key)' });
      expect(await migrator.partitionSql(count)).toEqual([]);
      const left = await query(
        `select relname from pg_class where relname ~ '_(next|old)$' union select proname from pg_proc where proname ~ '_relay$'`,
      );
      expect(left).toEqual([]);
      const inPartitions = await query(`select distinct tableoid::regclass as "table" from idempotency_keys`);
      expect(inPartitions).toHaveLength(Math.max(count, 1));
    }
    expect(await catalogues()).toEqual(plain);
  });

  it.each<[from: 8 | 'plain' | HandMade, to: number]>([
    ['plain', 8],
    [8, 0],
    ['LIST of scopes, and HASH below', 2],
    ['RANGE of keys', 2],
    ['HASH with columns in another order', 0],
    ['HASH with columns in another order', 3],
  ])('keep what is written while they are filled: from %s to %d', async (from, count) => {
    if (typeof from === 'number') await run(from);
    else if (from !== 'plain') await partitionByHand(from, database.url);
    let turn = 0;
    await run(count, async (statement) => {
      if (statement === 'begin') return;
      const inside = client.query(`select pg_current_xact_id_if_assigned() is not null as open`);
      if ((await inside).rows[0].open) return; // others would wait for this transaction
      const n = ++turn * 10;
      await query(`insert into idempotency_keys select ${keyRow(`'new' || ${n}`)}`);
      await query(`update idempotency_keys set attempt = 2 where key = 'k${n}'`);
      await query(`delete from idempotency_keys where key in ('k${n + 1}', 'new${n - 10}')`);
      await query(`update idempotency_steps set position = 7 where key = 'k${n}'`);
      await query(`delete from idempotency_steps where key = 'k${n + 1}'`);
      await query(`insert into idempotency_steps values (gen_random_uuid(), 's', 1, 1, '{}', '', 'new', now())`);
    });
    expect(turn).toBeGreaterThan(4);
    const [found] = await query(
      `select count(*) filter (where key like 'k%')::int4 as old, count(*) filter (where key like 'new%')::int4 as new,
         count(*) filter (where attempt = 2)::int4 as changed from idempotency_keys`,
    );
    expect(found).toEqual({ old: KEYS - turn, new: 1, changed: turn });
    expect(await query('select distinct scope, method, path from idempotency_keys')).toEqual([
      { scope: '', method: 'POST', path: '/' },
    ]);
    const [steps] = await query(
      `select count(*) filter (where key like 'k%')::int4 as old, count(*) filter (where key = 'new')::int4 as new,
         count(*) filter (where position = 7)::int4 as changed from idempotency_steps`,
    );
    expect(steps).toEqual({ old: KEYS - turn, new: turn, changed: turn });
  });

  it('do not get a row back that is deleted while it is copied', async () => {
    const holder = new Client(database.url);
    await holder.connect();
    try {
      await run(4, async (statement) => {
        if (!statement.startsWith('do $copy$') || !statement.includes('"idempotency_keys"')) return;
        await holder.query(`begin; delete from idempotency_keys where key = 'k7'`);
        const copying = client.query(statement);
        await waitFor(
          async () => (await query(`select from pg_locks where not granted and locktype = 'transactionid'`)).length > 0,
          { what: 'the copy to wait for the deletion' },
        );
        await holder.query('commit');
        await copying;
      });
    } finally {
      await holder.end();
    }
    expect(await query(`select from idempotency_keys where key = 'k7'`)).toEqual([]);
  });

  it('are exchanged while somebody reads, without keeping others out for longer than a try', async () => {
    const reader = new Client(database.url);
    await reader.connect();
    const notices: string[] = [];
    client.on('notice', ({ message }) => notices.push(message!));
    let reading = true;
    await run(2, async (statement) => {
      if (!statement.startsWith('do $lock$')) return;
      await reader.query('begin; select from idempotency_keys limit 1');
      void waitFor(() => notices.length >= 2, { what: 'two tries' })
        .then(() => query(`set statement_timeout = '20s'; select from idempotency_keys limit 1`))
        .then(() => reader.end())
        .then(() => (reading = false));
    });
    expect(reading).toBe(false);
    expect(notices[0]).toContain('requests are let through meanwhile (try 1 of 200)');
    expect((await migrator.split()).partitions).toBe(2);
  });

  it('keep owner and grants, so that the application can use them, also while they are filled', async () => {
    const role = `application_${randomUUID().replaceAll('-', '')}`;
    await query(`create role ${role}`);
    try {
      await query(`grant usage on schema public to ${role};
        grant select, insert, update, delete on idempotency_keys, idempotency_steps to ${role}`);
      const as = async (sql: string) => {
        await query(`set role ${role}; ${sql}`);
      };
      await run(8, async (statement) => {
        if (statement.startsWith('do $copy$')) await as(`delete from idempotency_keys where key = 'k1'`);
      });
      await client.query(`set role ${role}`);
      const db = { query: async (sql: string, values?: unknown[]) => (await client.query(sql, values)).rows };
      await assertUsable(db, (await findKeyTables(db, undefined))!, false);
      await as(`insert into idempotency_keys select ${keyRow("'mine'")}; delete from idempotency_steps`);
      expect(await query(`select key from idempotency_keys where key in ('k1', 'mine')`)).toEqual([{ key: 'mine' }]);
    } finally {
      await query(`drop owned by ${role}; drop role ${role}`);
    }
  });

  it.each(HAND_MADE)('take the place of others, made by hand: %s', async (kind) => {
    const [plain, rows] = [await catalogues(), await content()];
    await partitionByHand(kind, database.url);
    expect(await content()).toEqual(rows);
    await run(3);
    expect(await content()).toEqual(rows);
    expect(likePlain(await catalogues())).toEqual(plain);
    expect(await query(`select relname from pg_class where relname ~ 'by_hand'`)).toEqual([]);
  });

  it.each([
    ['create view mine as select key from idempotency_keys', 'mine depends on the table idempotency_keys'],
    ['create materialized view mine as select from idempotency_steps', 'mine depends on the table idempotency_steps'],
    [
      'create table orders (scope text, key text, foreign key (scope, key) references idempotency_keys)',
      'orders depends on the table idempotency_keys',
    ],
  ])('are refused where something would stay with the old ones: %s', async (sql, problem) => {
    await query(sql);
    await expect(migrator.partitionSql(8)).rejects.toThrow(problem);
  });

  it('are refused where a row may be in a table twice', async () => {
    await query('alter table idempotency_steps drop constraint idempotency_steps_pkey');
    await expect(migrator.partitionSql(8)).rejects.toThrow('has no unique index over (execution_id, name)');
  });

  it('are refused where children inherit, and before all migrations are applied', async () => {
    await query('create table archive () inherits (idempotency_keys)');
    await expect(migrator.partitionSql(8)).rejects.toThrow('has children that inherit from it');
    await query('drop table archive');
    await migrator.revert();
    await expect(migrator.partitionSql(8)).rejects.toThrow('Run migration:run first');
  });

  it('are what the command line prints, shows, and reverts as a whole', async () => {
    const printed = await runCli(['migration:sql', '--partitions', '2'], { DATABASE_URL: database.url });
    expect(printed.stdout).toContain('Fills new tables beside the old ones');
    for (const statement of await new Migrator(await open()).partitionSql(2)) {
      expect(printed.stdout).toContain(statement);
    }
    await run(2);
    const shown = await runCli(['migration:show'], { DATABASE_URL: database.url });
    expect(shown.stdout).toBe(`${NAMES.map((name) => `[X] ${name}\n`).join('')}in 2 partitions by HASH (key)\n`);
    expect((await runCli(['migration:sql', '--partitions', '2'], { DATABASE_URL: database.url })).stdout).toBe(
      '-- nothing to apply\n',
    );
    for (const name of NAMES.toReversed()) expect(await migrator.revert()).toBe(name);
    expect(await catalogues()).toEqual([undefined, undefined]);
  });

  it.each(['1', '1001', 'many'])('cannot be %j', async (partitions) => {
    const { exitCode, stderr } = await runCli(['migration:sql', `--partitions=${partitions}`]);
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining('from 2 to 1000, or 0 for a plain table')]);
  });
});
