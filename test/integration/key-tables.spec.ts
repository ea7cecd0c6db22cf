import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { adviceOnPlainTables } from '../../src/postgres/statements/citus-tables.js';
import { assertUsable, findKeyTables, isDistributed } from '../../src/postgres/statements/key-tables.js';
import type { Queryable } from '../../src/postgres/queryable.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { createTestApp } from '../support/test-app.js';
import { turnTablesInto } from '../support/table-kinds.js';

const ROLE = `application_${randomUUID().replaceAll('-', '')}`;

/** What keeps a server from recording is found before the first request. */
describe('at boot the tables of keys', () => {
  let database: TestDatabase;
  let client: Client;
  let db: Queryable;

  beforeAll(async () => {
    database = await createTestDatabase();
    client = new Client(database.url);
    await client.connect();
    db = { query: async (sql, parameters) => (await client.query(sql, parameters)).rows };
    await client.query(
      `create role ${ROLE}; grant select, insert, update, delete on all tables in schema public to ${ROLE}`,
    );
  });

  beforeEach(() => client.query('begin'));

  afterEach(() => client.query('rollback'));

  afterAll(async () => {
    await client.query(`drop owned by ${ROLE}; drop role ${ROLE}`);
    await client.end();
    await database.drop();
  });

  const check = async (schema?: string, localWrites = false) => {
    const tables = await findKeyTables(db, schema);
    await assertUsable(db, tables!, localWrites);
    return tables;
  };

  it('are found along the search_path, where both are', async () => {
    const searchPath = '"$user", public';
    expect(await check()).toEqual({ schema: 'public', searchPath });
    expect(await check('public')).toEqual({ schema: 'public', searchPath });
    expect(await findKeyTables(db, 'nowhere')).toBeUndefined();
    await client.query(`create schema "an ""odd"" one"; set local search_path to "an ""odd"" one", public`);
    expect(await check()).toMatchObject({ schema: 'public' });
    await client.query('create table idempotency_keys (like public.idempotency_keys including all)');
    expect(await findKeyTables(db, undefined)).toBeUndefined();
    await client.query('create table idempotency_steps (like public.idempotency_steps including all)');
    expect(await check()).toEqual({ schema: 'an "odd" one', searchPath: '"an ""odd"" one", public' });
  });

  it('are good with the four rights on each', async () => {
    await client.query(`set local role ${ROLE}`);
    expect(await check()).toMatchObject({ schema: 'public' });
  });

  it.each([
    ['delete', 'idempotency_keys'],
    ['select, update', 'idempotency_steps'],
    ['insert', 'idempotency_steps'],
  ])('are refused without the right to %s on %s, with the grant to run', async (rights, table) => {
    await client.query(`revoke ${rights} on ${table} from ${ROLE}; set local role ${ROLE}`);
    const grant = `grant ${rights} on "public"."${table}" to "${ROLE}";`;
    await expect(check()).rejects.toThrow(grant);
    await client.query(`reset role; ${grant} set local role ${ROLE}`);
    expect(await check()).toMatchObject({ schema: 'public' });
  });

  it('are refused in a schema that must not be used, with the grant to run', async () => {
    await client.query(`create schema hidden; set local role ${ROLE}; savepoint before`);
    await expect(async () => findKeyTables({ query }, 'hidden')).rejects.toThrow(
      `grant usage on schema "hidden" to "${ROLE}";`,
    );

    async function query(sql: string, parameters?: unknown[]): Promise<unknown> {
      return db.query(sql, parameters).catch(async (error: unknown) => {
        await client.query('rollback to savepoint before'); // outside of this test each is a transaction of its own
        throw error;
      });
    }
  });

  it.each(['idempotency_keys', 'idempotency_steps'])('are refused when %s is UNLOGGED', async (table) => {
    await client.query(`alter table ${table} set unlogged`);
    await expect(check()).rejects.toThrow(/is UNLOGGED.*Run: alter table idempotency_\w+ set logged;/);
  });

  it('are refused when one of their partitions is UNLOGGED', async () => {
    const own = await createTestDatabase();
    const other = new Client(own.url);
    await other.connect();
    try {
      await turnTablesInto('8 HASH partitions', own.url);
      await other.query('alter table idempotency_keys_p8_3 set unlogged');
      await expect(
        assertUsable(
          { query: async (sql, parameters) => (await other.query(sql, parameters)).rows },
          { schema: 'public', searchPath: '' },
          false,
        ),
      ).rejects.toThrow('alter table idempotency_keys_p8_3 set logged;');
    } finally {
      await other.end();
      await own.drop();
    }
  });

  describe('beside the list of tables that Citus keeps', () => {
    // The list alone, as Citus has it: what the statements do on its tables `npm run test:citus` shows.
    const list = (...rows: string[]): Promise<unknown> =>
      client.query(`set local allow_system_table_mods = on;
        create table pg_catalog.pg_dist_partition (
          logicalrelid regclass, partmethod "char", colocationid int, repmodel "char");
        grant select on pg_catalog.pg_dist_partition to ${ROLE};
        create table orders ();
        ${rows.map((row) => `insert into pg_catalog.pg_dist_partition values ${row};`).join('\n')}`);

    it('are good as plain ones where nothing is elsewhere', async () => {
      await list(`('orders', 'n', 0, 's')`); // managed, and on this node alone
      expect(isDistributed((await check())!)).toBe(false);
    });

    it.each([
      ['distributed', `('orders', 'h', 1, 's')`],
      ['reference', `('orders', 'n', 2, 't')`],
      ["a tenant's schema", `('orders', 'n', 3, 's')`],
    ])('are refused as plain ones beside a table that is elsewhere (%s), with what to run', async (_, row) => {
      await list(row);
      await expect(check()).rejects.toThrow(
        /idempotency_keys" is a plain table beside distributed ones \(orders\).*citus_add_local_table_to_metadata\('"public"."idempotency_keys"'\).*create_distributed_table\('"public"."idempotency_keys"', 'key', colocate_with => 'none'\).*localWrites: true/,
      );
      expect(isDistributed((await check(undefined, true))!)).toBe(false);
    });

    it('are refused when one of the two is a plain one', async () => {
      await list(`('orders', 'h', 1, 's')`, `('idempotency_keys', 'h', 2, 's')`);
      await expect(check()).rejects.toThrow('idempotency_steps" is a plain table');
    });

    it('warn of tables of entities that do not commit with keys which are elsewhere', async () => {
      await list(`('idempotency_keys', 'h', 2, 's')`, `('idempotency_steps', 'h', 3, 's')`);
      expect((await check())!.citus).toMatchObject({ keysElsewhere: true });
      expect(await adviceOnPlainTables(db, ['"orders"', '"idempotency_keys"', '"not there"'])).toMatch(
        /other nodes of Citus than orders, which.*run on the coordinator: select citus_add_local_table_to_metadata\('orders'\);$/,
      );
      expect(await adviceOnPlainTables(db, ['"idempotency_keys"'])).toBeUndefined();
    });

    it.each([`'h', 2, 's'`, `'n', 0, 's'`, `'n', 2, 't'`])('are good as tables of Citus: %s', async (kind) => {
      await list(`('orders', 'h', 1, 's')`, `('idempotency_keys', ${kind})`, `('idempotency_steps', ${kind})`);
      expect(isDistributed((await check())!)).toBe(true);
    });
  });

  it('keep the application from starting when they cannot be used', async () => {
    const own = await createTestDatabase();
    const other = new Client(own.url);
    await other.connect();
    try {
      await other.query('alter table idempotency_steps set unlogged');
      await expect(createTestApp({ adapter: 'express', databaseUrl: own.url })).rejects.toThrow(
        'IdempotencyModule: the table idempotency_steps is UNLOGGED',
      );
    } finally {
      await other.end();
      await own.drop();
    }
  });
});
