import { describe, expect, it } from '@jest/globals';
import { Migrator } from '../../../src/migrate/migrate.js';
import { KEYS_TABLE } from '../../../src/postgres/table-name.js';
import { catalogueOf } from '../../support/catalogue.js';
import { queryOn } from '../../support/empty-database.js';
import { database, open, withAnEmptyDatabaseEach } from './lab.js';

withAnEmptyDatabaseEach();

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
