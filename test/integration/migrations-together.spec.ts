import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { idempotencyMigrations, idempotencyMigrationsIn } from '../../migrations/index.js';
import { Migrator } from '../../src/migrate/migrate.js';
import type { TestDatabase } from '../support/database.js';
import { createEmptyDatabase, queryOn } from '../support/empty-database.js';

describe('migrations that the command line and a DataSource both run', () => {
  let database: TestDatabase;
  let open: DataSource[];

  beforeEach(async () => {
    database = await createEmptyDatabase();
    open = [];
  });
  afterEach(async () => {
    await Promise.all(open.map((dataSource) => dataSource.destroy()));
    await database.drop();
  });

  const connect = async (migrations = idempotencyMigrations): Promise<DataSource> => {
    const dataSource = await new DataSource({
      type: 'postgres',
      url: database.url,
      migrations,
      logger: 'debug',
    }).initialize();
    open.push(dataSource);
    return dataSource;
  };
  const names = (migrations: { name: string }[]): string[] => migrations.map(({ name }) => name);
  const all = idempotencyMigrations.map((Migration) => new Migration().name);

  it('are recognised by the DataSource, which counts them as run', async () => {
    const dataSource = await connect();
    await new Migrator(dataSource).run();
    expect(names(await dataSource.runMigrations())).toEqual(all);
    expect(await dataSource.showMigrations()).toBe(false); // none is pending
  });

  it('are recognised by the command line, which counts them as run', async () => {
    const dataSource = await connect();
    await dataSource.runMigrations();
    const migrator = new Migrator(dataSource);
    expect((await migrator.sql()).join()).not.toContain('create table "idempotency_keys"');
    expect(await migrator.run()).toEqual(all);
    expect(await migrator.run()).toEqual([]);
  });

  it('are recognised where only the first was run', async () => {
    const dataSource = await connect(idempotencyMigrations.slice(0, 1));
    await dataSource.runMigrations();
    expect(await new Migrator(dataSource).run()).toEqual(all);
    expect(await queryOn(database.url, 'select * from idempotency_steps')).toEqual([]);
  });

  it('are recognised in a schema of their own, and only there', async () => {
    const dataSource = await connect(idempotencyMigrationsIn('own'));
    await new Migrator(dataSource).run();
    await dataSource.runMigrations();
    await new Migrator(dataSource, 'own').run();
    expect(await queryOn(database.url, 'select * from own.idempotency_keys')).toEqual([]);
    expect(await queryOn(database.url, 'select * from idempotency_keys')).toEqual([]);
  });

  it('are stopped by a table of that name that came from elsewhere', async () => {
    await queryOn(database.url, 'create table idempotency_keys (something_else text)');
    const dataSource = await connect();
    await expect(dataSource.runMigrations()).rejects.toThrow('already exists');
  });
});
