import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { assertUsable, findKeyTables } from '../../src/postgres/statements/key-tables.js';
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

  const check = async (schema?: string) => {
    const tables = await findKeyTables(db, schema);
    await assertUsable(db, tables!);
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
      await other.query('alter table idempotency_keys_p3 set unlogged');
      await expect(
        assertUsable(
          { query: async (sql, parameters) => (await other.query(sql, parameters)).rows },
          { schema: 'public', searchPath: '' },
        ),
      ).rejects.toThrow('alter table idempotency_keys_p3 set logged;');
    } finally {
      await other.end();
      await own.drop();
    }
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
