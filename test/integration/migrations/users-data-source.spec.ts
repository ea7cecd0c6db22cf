import { describe, expect, it } from '@jest/globals';
import { EntitySchema, type MigrationInterface } from 'typeorm';
import { idempotencyMigrations, idempotencyMigrationsIn } from '../../../migrations/index.js';
import { KEYS_TABLE, quoteIdentifier, tableName } from '../../../src/postgres/table-name.js';
import { catalogueOf } from '../../support/catalogue.js';
import { queryOn } from '../../support/empty-database.js';
import { database, NAMES, open, withAnEmptyDatabaseEach } from './lab.js';

withAnEmptyDatabaseEach();

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
