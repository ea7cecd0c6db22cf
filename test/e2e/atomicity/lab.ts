import { afterEach, beforeEach, expect } from '@jest/globals';
import { Client } from 'pg';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import type { RawResponse } from '../../support/raw-http.js';
import { type Adapter, createTestApp, type TestApp, type TestAppOptions } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { Hanging } from './hanging.controller.js';
import { Shop } from './shop.controller.js';
import { PROVIDERS, Script } from './shop.js';

/** The applications of the test. */
export let started: TestApp[];
export let database: TestDatabase;

/** Sees what is committed, and the sessions of the application. */
export let observer: Client;

/** Each test has a database of its own, and the applications that it starts over it end with it. */
export function withADatabaseEach(): void {
  beforeEach(async () => {
    started = [];
    database = await createTestDatabase();
    observer = new Client(database.url);
    await observer.connect();
  });

  afterEach(async () => {
    for (const test of started) await test.close();
    await waitFor(async () => (await sessions()).length === 0, { what: 'the sessions to end with the application' });
    await observer.end();
    await database.drop();
  });
}

export async function start(
  adapter: Adapter,
  options: Partial<TestAppOptions> = {},
): Promise<TestApp & { script: Script }> {
  const test = await createTestApp({
    adapter,
    databaseUrl: database.url,
    controllers: [Shop, Hanging],
    shared: [Script],
    providers: PROVIDERS,
    ...options,
  });
  started.push(test);
  return Object.assign(test, { script: test.app.get(Script) });
}

export async function rows<Row extends object>(sql: string, parameters: unknown[] = []): Promise<Row[]> {
  return (await observer.query<Row>(sql, parameters)).rows;
}

/** Of the application's connections. */
export const sessions = () =>
  rows<{ state: string; pid: number }>(
    `select state, pid from pg_stat_activity
     where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
       and application_name not like 'citus%'`, // its servers' own, which stay
  );

export const keys = async () =>
  (await rows<{ key: string }>('select key from idempotency_keys order by key')).map(({ key }) => key);

export const advisoryLocks = async () =>
  (
    await rows(`select from pg_locks where locktype = 'advisory' and objsubid = 1 and granted
      and database = (select oid from pg_database where datname = current_database())`)
  ).length;

export async function terminate(pid: number): Promise<void> {
  expect(await rows('select pg_terminate_backend($1::int4) as done', [pid])).toEqual([{ done: true }]);
}

export function problemOf({ body }: RawResponse): { type: string; status: number } {
  return JSON.parse(body.toString()) as { type: string; status: number };
}

/** Writes down the top-level transaction of every write: a row's xmin is that of its savepoint, if it has one. */
export async function watchTransactions(): Promise<() => Promise<{ place: string; xid: string }[]>> {
  await observer.query(`
    create table writes (place text, xid xid8);
    create function note() returns trigger language plpgsql as $$ begin
      insert into writes values (tg_table_name, pg_current_xact_id());
      return null;
    end $$;
    create trigger note after insert or update or delete on idempotency_keys for each row execute function note();
    create trigger note after insert or update or delete on effects for each row execute function note()`);
  return () => rows('select place, xid::text from writes');
}
