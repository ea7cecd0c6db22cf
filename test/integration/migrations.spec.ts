import { randomBytes, randomUUID } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { DataSource, type DataSourceOptions, EntitySchema, type MigrationInterface } from 'typeorm';
import { idempotencyMigrations, idempotencyMigrationsIn } from '../../migrations/index.js';
import { Migrator } from '../../src/persistence/migrate.js';
import { KEYS_TABLE, quoteIdentifier, STEPS_TABLE, tableName } from '../../src/persistence/table-name.js';
import { catalogueOf } from '../support/catalogue.js';
import { runCli } from '../support/cli.js';
import type { TestDatabase } from '../support/database.js';
import { createEmptyDatabase, queryOn } from '../support/empty-database.js';
import { waitFor } from '../support/wait-for.js';

type PostgresOptions = Extract<DataSourceOptions, { type: 'postgres' }>;

const FIRST = 'CreateIdempotencyKeys1763683200000';
const SECOND = 'AddLeasesAndSteps1763769600000';
const THIRD = 'AddAttention1763856000000';
const NAMES = [FIRST, SECOND, THIRD];

let database: TestDatabase;
let opened: DataSource[];

beforeEach(async () => {
  database = await createEmptyDatabase();
  opened = [];
});

afterEach(async () => {
  await Promise.all(opened.map((dataSource) => dataSource.destroy()));
  await database.drop();
});

const catalogues = () =>
  Promise.all([KEYS_TABLE, STEPS_TABLE].map((table) => catalogueOf(database.url, 'public', table)));

async function open(options: Partial<PostgresOptions> = {}): Promise<DataSource> {
  const dataSource = new DataSource({ type: 'postgres', url: database.url, ...options });
  opened.push(dataSource);
  return dataSource.initialize();
}

describe('the table', () => {
  it('is the same after up, down and up again', async () => {
    const migrator = new Migrator(await open());

    await expect(migrator.run()).resolves.toEqual(NAMES);
    const [keys, steps] = await catalogues();
    expect([keys, steps]).toEqual([expect.anything(), expect.anything()]);

    for (const name of NAMES.toReversed()) await expect(migrator.revert()).resolves.toBe(name);
    await expect(migrator.revert()).resolves.toBeUndefined();
    await expect(catalogues()).resolves.toEqual([undefined, undefined]);

    await expect(migrator.run()).resolves.toEqual(NAMES);
    await expect(catalogues()).resolves.toEqual([keys, steps]);
  });

  it('is the same after each migration, whether one comes up to it or down', async () => {
    for (const count of [1, 2]) {
      const dataSource = await open({ migrations: idempotencyMigrations.slice(0, count) });
      await dataSource.runMigrations();
      const before = await catalogues();

      const migrator = new Migrator(await open());
      await queryOn(database.url, `create table idempotency_migrations as table migrations`);
      await expect(migrator.run()).resolves.toEqual(NAMES.slice(count));
      for (const name of NAMES.slice(count).toReversed()) await expect(migrator.revert()).resolves.toBe(name);
      await expect(catalogues()).resolves.toEqual(before);
      await queryOn(database.url, 'drop table idempotency_migrations');
    }
  });

  it('has exactly the columns that the runtime reads and writes, in this order', async () => {
    await new Migrator(await open()).run();

    const catalogue = await catalogueOf(database.url);
    expect(
      catalogue?.columns.map(({ name, type, required }) => `${name} ${type}${required ? ' not null' : ''}`),
    ).toEqual([
      'scope text not null',
      'key text not null',
      'fingerprint bytea not null',
      'fingerprint_version smallint not null',
      'method text not null',
      'path text not null',
      'claim_id uuid not null',
      'response_status smallint',
      'response_headers jsonb',
      'response_body bytea',
      'response_bytes bigint',
      'created_at timestamp with time zone not null',
      'expires_at timestamp with time zone not null',
      'execution_id uuid',
      'attempt integer',
      'lease_expires_at timestamp with time zone',
      'attention jsonb',
    ]);
    const steps = await catalogueOf(database.url, 'public', STEPS_TABLE);
    expect(steps?.columns.map(({ name, type, required }) => `${name} ${type}${required ? ' not null' : ''}`)).toEqual([
      'execution_id uuid not null',
      'name text not null',
      'position integer not null',
      'attempt integer not null',
      'outcome json not null',
      'scope text not null',
      'key text not null',
      'created_at timestamp with time zone not null',
    ]);
    expect(steps?.comment).toBeTruthy();
    expect(steps?.columns.filter(({ comment }) => !comment)).toEqual([]);
  });

  it('compares keys and scopes byte by byte, and explains itself and every column', async () => {
    await new Migrator(await open()).run();

    const catalogue = await catalogueOf(database.url);
    const collations = new Map(catalogue?.columns.map(({ name, collation }) => [name, collation]));
    expect([collations.get('scope'), collations.get('key')]).toEqual(['C', 'C']);
    expect(catalogue?.comment).toBeTruthy();
    expect(catalogue?.columns.filter(({ comment }) => !comment)).toEqual([]);
    expect(catalogue?.indexes.map(({ name }) => name)).toEqual([
      'idempotency_keys_expires_at_idx',
      'idempotency_keys_pkey',
    ]);
  });
});

describe('the constraints', () => {
  const VALID = {
    scope: 'alice',
    key: 'key-1',
    fingerprint: randomBytes(32),
    fingerprint_version: 1,
    method: 'POST',
    path: '/payments',
    claim_id: randomUUID(),
    response_status: 201,
    response_headers: '[["content-type", "text/plain"]]',
    response_body: Buffer.from('done'),
    response_bytes: 4,
    created_at: '2026-01-01T00:00:00Z',
    expires_at: '2026-01-02T00:00:00Z',
  };

  async function insert(changes: Partial<Record<keyof typeof VALID, unknown>>): Promise<void> {
    const row = { ...VALID, ...changes };
    const parameters = Object.keys(row).map((_, index) => `$${index + 1}`);
    await queryOn(
      database.url,
      `insert into idempotency_keys (${Object.keys(row).join(', ')}) values (${parameters.join(', ')})`,
      Object.values(row),
    );
  }

  beforeEach(async () => {
    await new Migrator(await open()).run();
  });

  it.each([
    ['a plain row', {}],
    ['the empty scope, which all callers share', { scope: '' }],
    [
      'scope and key of the greatest length, in the widest characters',
      { scope: '😀'.repeat(255), key: '😀'.repeat(255) },
    ],
    ['an empty body', { response_body: Buffer.alloc(0), response_bytes: 0 }],
    ['a tombstone: a body that was too large to keep', { response_body: null, response_bytes: 5_000_000_000 }],
  ])('take %s', async (_, changes) => {
    await expect(insert(changes)).resolves.toBeUndefined();
  });

  it.each([
    ['an empty key', 'idempotency_keys_key_length', { key: '' }],
    ['a key of 256 characters', 'idempotency_keys_key_length', { key: 'k'.repeat(256) }],
    ['a scope of 256 characters', 'idempotency_keys_scope_length', { scope: 's'.repeat(256) }],
    ['a hash of 31 bytes', 'idempotency_keys_fingerprint_sha256', { fingerprint: randomBytes(31) }],
    ['status 99', 'idempotency_keys_response_status_range', { response_status: 99 }],
    ['status 600', 'idempotency_keys_response_status_range', { response_status: 600 }],
    ['headers that lost their order', 'idempotency_keys_response_headers_array', { response_headers: '{"etag": "1"}' }],
    ['a body of another length than it says', 'idempotency_keys_response_bytes_match', { response_bytes: 5 }],
    [
      'a tombstone of negative length',
      'idempotency_keys_response_bytes_match',
      { response_body: null, response_bytes: -1 },
    ],
    ['a row that is born expired', 'idempotency_keys_expires_after_created', { expires_at: VALID.created_at }],
  ])('refuse %s', async (_, constraint, changes) => {
    await expect(insert(changes)).rejects.toMatchObject({ constraint });
  });

  it('refuse a second row of the same key in the same scope, and of that scope alone', async () => {
    await insert({});
    await expect(insert({})).rejects.toMatchObject({ constraint: 'idempotency_keys_pkey' });
    await expect(insert({ scope: 'bob' })).resolves.toBeUndefined();
  });
});

describe('twenty at once', () => {
  it('all succeed, and apply the migration once', async () => {
    // The lock is held until all twenty wait for it: none of them gets by with being early or late.
    const [gate, watch] = [(await open()).createQueryRunner(), await open()];
    await gate.startTransaction();
    await gate.query(`select pg_advisory_xact_lock(hashtextextended('nestjs-idempotency migrations', 0))`);

    const processes = Array.from({ length: 10 }, () => runCli(['migration:run', '--url', database.url]));
    const inProcess = Array.from({ length: 10 }, async (_, index) => {
      const isolationLevel = index % 2 === 0 ? 'SERIALIZABLE' : 'REPEATABLE READ';
      return new Migrator(await open({ isolationLevel })).run();
    });
    await waitFor(
      async () => {
        const [row] = await watch.query<{ count: number }[]>(
          `select count(*)::int as count from pg_stat_activity
           where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'`,
        );
        return row?.count === 20;
      },
      { what: 'twenty to wait for the lock', timeoutMs: 60_000 },
    );
    await gate.rollbackTransaction();
    await gate.release();

    const exits = await Promise.all(processes);
    const applied = (await Promise.all(inProcess)).flat();
    expect(exits.map(({ exitCode, stderr }) => ({ exitCode, stderr }))).toEqual(
      Array.from({ length: 10 }, () => ({ exitCode: 0, stderr: '' })),
    );
    const winners = exits.filter(({ stdout }) => NAMES.every((name) => stdout.includes(`applied ${name}`)));
    expect([...winners.map(() => NAMES), applied].filter((names) => names.length > 0)).toEqual([NAMES]);
    await expect(watch.query('select name from idempotency_migrations order by timestamp')).resolves.toEqual(
      NAMES.map((name) => ({ name })),
    );
  }, 90_000);
});

describe('a failure', () => {
  it('leaves nothing behind, not even the record', async () => {
    await queryOn(database.url, 'create table idempotency_keys (something_else text)');

    await expect(new Migrator(await open()).run()).rejects.toThrow('already exists');

    const tables = await queryOn(database.url, `select tablename from pg_tables where schemaname = 'public'`);
    expect(tables).toEqual([{ tablename: KEYS_TABLE }]);
  });

  it('to know what was applied last stops the revert', async () => {
    const migrator = new Migrator(await open());
    await migrator.run();
    await queryOn(
      database.url,
      `insert into idempotency_migrations (timestamp, name) values (1999999999999, 'FromTheFuture1999999999999')`,
    );

    await expect(migrator.revert()).rejects.toThrow('newer version');
    await expect(catalogueOf(database.url)).resolves.toBeDefined();
  });
});

describe.each(['plain', 'My Schema', `it's "odd".schema $1`])('in the schema %j', (schema) => {
  it('the migrator makes schema, table and record, and takes the table back', async () => {
    const migrator = new Migrator(await open(), schema);

    await expect(migrator.run()).resolves.toEqual(NAMES);
    await expect(catalogueOf(database.url, schema)).resolves.toBeDefined();
    await expect(catalogueOf(database.url)).resolves.toBeUndefined();
    await expect(migrator.show()).resolves.toEqual(NAMES.map((name) => ({ name, applied: true })));

    for (const name of NAMES.toReversed()) await expect(migrator.revert()).resolves.toBe(name);
    await expect(catalogueOf(database.url, schema)).resolves.toBeUndefined();
  });

  it('the printed SQL does the same', async () => {
    const migrator = new Migrator(await open(), schema);
    await queryOn(database.url, (await migrator.sql()).join(';\n'));

    const printed = await catalogueOf(database.url, schema);
    await expect(migrator.sql()).resolves.toEqual([]);
    for (const name of NAMES.toReversed()) await expect(migrator.revert()).resolves.toBe(name);
    await migrator.run();
    await expect(catalogueOf(database.url, schema)).resolves.toEqual(printed);
  });

  it("idempotencyMigrationsIn() puts the table there from a user's DataSource", async () => {
    const dataSource = await open({ migrations: [...idempotencyMigrationsIn(schema)] });

    const applied = await dataSource.runMigrations();
    expect(applied.map(({ name }) => name)).toEqual([
      `CreateIdempotencyKeys_${schema}_1763683200000`,
      `AddLeasesAndSteps_${schema}_1763769600000`,
      `AddAttention_${schema}_1763856000000`,
    ]);
    await expect(catalogueOf(database.url, schema)).resolves.toBeDefined();

    for (const _ of NAMES) await dataSource.undoLastMigration();
    await expect(catalogueOf(database.url, schema)).resolves.toBeUndefined();
  });

  it('needs no right to create schemas when it is there', async () => {
    const role = quoteIdentifier(`idempotency_${randomUUID()}`);
    await queryOn(database.url, `create role ${role}; create schema ${quoteIdentifier(schema)} authorization ${role}`);
    try {
      const dataSource = await open({ extra: { options: `-c role=${role.slice(1, -1)}` } });
      await expect(new Migrator(dataSource, schema).run()).resolves.toEqual(NAMES);
    } finally {
      await queryOn(database.url, `drop owned by ${role}; drop role ${role}`);
    }
  });
});

describe("spread into a user's DataSource", () => {
  class CreateOrders1700000000000 implements MigrationInterface {
    name = 'CreateOrders1700000000000';

    async up(runner: { query(sql: string): Promise<unknown> }): Promise<void> {
      await runner.query('create table orders (id integer primary key)');
    }

    async down(runner: { query(sql: string): Promise<unknown> }): Promise<void> {
      await runner.query('drop table orders');
    }
  }

  const orders = new EntitySchema<{ id: number }>({
    name: 'orders',
    columns: { id: { type: 'integer', primary: true } },
  });

  it('the migrations run and undo among its own', async () => {
    const dataSource = await open({ migrations: [...idempotencyMigrations, CreateOrders1700000000000] });

    const applied = await dataSource.runMigrations();
    expect(applied.map(({ name }) => name)).toEqual(['CreateOrders1700000000000', ...NAMES]);
    await expect(catalogueOf(database.url)).resolves.toBeDefined();
    await expect(dataSource.runMigrations()).resolves.toEqual([]);

    for (const _ of NAMES) await dataSource.undoLastMigration();
    await expect(catalogueOf(database.url)).resolves.toBeUndefined();
    await expect(dataSource.query('select from orders')).resolves.toEqual([]);
  });

  it('they follow its schema option', async () => {
    const schema = 'My Schema';
    await queryOn(database.url, `create schema ${quoteIdentifier(schema)}`);
    const dataSource = await open({ schema, migrations: [...idempotencyMigrations] });

    await dataSource.runMigrations();
    await expect(catalogueOf(database.url, schema)).resolves.toBeDefined();

    for (const _ of NAMES) await dataSource.undoLastMigration();
    await expect(catalogueOf(database.url, schema)).resolves.toBeUndefined();
  });

  it('several schemas live side by side', async () => {
    const dataSource = await open({
      migrations: [...idempotencyMigrations, ...idempotencyMigrationsIn('one'), ...idempotencyMigrationsIn('two')],
    });
    await expect(dataSource.runMigrations()).resolves.toHaveLength(3 * NAMES.length);
    await expect(catalogueOf(database.url, 'two')).resolves.toBeDefined();
  });

  it('neither synchronize nor migration:generate wants to drop the table', async () => {
    const dataSource = await open({ entities: [orders], migrations: [...idempotencyMigrations] });
    await dataSource.runMigrations();
    const before = await catalogueOf(database.url);

    // What `typeorm migration:generate` would write into its file.
    const { upQueries } = await dataSource.driver.createSchemaBuilder().log();
    expect(upQueries.map(({ query }) => query)).toEqual([expect.stringContaining('CREATE TABLE "orders"')]);

    await dataSource.synchronize();
    await expect(catalogueOf(database.url)).resolves.toEqual(before);
  });

  it('a DataSource of another database is refused in words', async () => {
    const runner = { dataSource: { options: { type: 'mysql' } } };
    const [Migration] = idempotencyMigrations;
    // Only the type of the options is read before the refusal.
    await expect(new Migration!().up(runner as never)).rejects.toThrow('type "postgres"');
  });

  it('the names of tables are quoted', () => {
    expect(tableName(KEYS_TABLE, 'a"b')).toBe('"a""b"."idempotency_keys"');
  });
});
