import { describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { idempotencyMigrations } from '../../../migrations/index.js';
import { Migrator } from '../../../src/migrate/migrate.js';
import { queryOn } from '../../support/empty-database.js';
import { waitFor } from '../../support/wait-for.js';
import { catalogues, database, NAMES, open, withAnEmptyDatabaseEach } from './lab.js';

withAnEmptyDatabaseEach();

/** Short, and many: how long a migration waits is not what is tested. */
const PATIENCE = { lockTimeoutMs: 50, pauseMs: 50, tries: 200 };

/** A database as the first migration left it, with rows. */
async function withKeys(): Promise<void> {
  const dataSource = await open({ migrations: idempotencyMigrations.slice(0, 1) });
  await dataSource.runMigrations();
  await queryOn(
    database.url,
    `create table idempotency_migrations (id serial primary key, timestamp bigint not null, name varchar not null);
     insert into idempotency_migrations (timestamp, name) values (1763683200000, '${NAMES[0]}');
     insert into idempotency_keys select '', n::text, sha256('x'), 1, 'POST', '/', gen_random_uuid(), 201, '[]', '', 0,
       now(), now() + interval '1 hour' from generate_series(1, 10) n`,
  );
}

/** Somebody who reads all there is, as pg_dump does, until the answer is called. */
async function openReader(): Promise<() => Promise<void>> {
  const reader = new Client({ connectionString: database.url, application_name: 'pg_dump' });
  await reader.connect();
  await reader.query('begin');
  await reader.query('select from idempotency_keys');
  return () => reader.end();
}

/** Requests that come meanwhile: none waits as long as the reader reads. */
const readKeys = () => queryOn(database.url, `set statement_timeout = '20s'; select from idempotency_keys`);

const constraints = () =>
  queryOn<{ conname: string; convalidated: boolean }>(
    database.url,
    `select conname, convalidated from pg_constraint where conrelid = 'idempotency_keys'::regclass and contype = 'c'`,
  );

describe('a migration that meets a reader', () => {
  it('lets requests through while it waits, says for whom, and is applied in the end', async () => {
    await withKeys();
    const close = await openReader();
    const told: string[] = [];
    const running = new Migrator(await open(), undefined, (message) => told.push(message), PATIENCE).run();
    await waitFor(() => told.length >= 2, { what: 'two tries' });
    await readKeys();
    await close();
    expect(await running).toEqual(NAMES.slice(1));
    expect(told[0]).toMatch(/waiting for the session \d+ \(pg_dump\), which uses "idempotency_keys".*try 1 of 200/);
  });

  it('gives up in the end, with nothing changed', async () => {
    await withKeys();
    const before = await catalogues();
    const close = await openReader();
    const migrator = new Migrator(await open(), undefined, () => undefined, { ...PATIENCE, tries: 2 });
    await expect(migrator.run()).rejects.toMatchObject({ code: '55P03' });
    await close();
    expect(await catalogues()).toEqual(before);
  });

  it.each(['all', 'each', 'none'] as const)(
    "does the same in a DataSource of one's own, with transactions for %s",
    async (migrationsTransactionMode) => {
      await withKeys();
      const close = await openReader();
      const told: string[] = [];
      const silent = () => undefined;
      const dataSource = await open({
        migrations: [...idempotencyMigrations],
        extra: { options: '-c lock_timeout=50ms' },
        logger: {
          logQuery: silent,
          logQueryError: silent,
          logQuerySlow: silent,
          logSchemaBuild: silent,
          log: silent,
          logMigration: (message) => void told.push(message),
        },
      });
      const running = dataSource.runMigrations({ transaction: migrationsTransactionMode });
      await waitFor(() => told.some((message) => message.includes('waiting for the session')), { what: 'a try' });
      await readKeys();
      await close();
      expect((await running).map(({ name }) => name)).toEqual(NAMES.slice(1));
      expect(await dataSource.query(`show lock_timeout`)).toEqual([{ lock_timeout: '50ms' }]);
    },
  );
});

describe('new constraints', () => {
  it('are validated behind the change, by transactions of their own', async () => {
    await withKeys();
    await queryOn(
      database.url,
      `create table locks (mode text);
       create function note_locks() returns event_trigger language plpgsql as $$ begin
         insert into locks select mode from pg_locks
           where relation = 'idempotency_keys'::regclass and mode = 'AccessExclusiveLock'
             and current_query() ~ 'validate constraint';
       end $$;
       create event trigger note_locks on ddl_command_end execute function note_locks();`,
    );
    await new Migrator(await open()).run();
    const found = await constraints();
    expect(found.filter(({ conname }) => conname.includes('response_whole'))).toHaveLength(1);
    expect(found.filter(({ convalidated }) => !convalidated)).toEqual([]);
    expect(await queryOn(database.url, 'select mode from locks')).toEqual([]);
  });

  it('that a former run did not come to are validated by the next', async () => {
    await withKeys();
    await queryOn(
      database.url,
      `alter table idempotency_keys add constraint left_over check (response_status < 600) not valid`,
    );
    await new Migrator(await open()).run();
    expect((await constraints()).filter(({ convalidated }) => !convalidated)).toEqual([]);
  });
});
