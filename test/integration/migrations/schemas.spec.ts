import { randomUUID } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import { idempotencyMigrationsIn } from '../../../migrations/index.js';
import { Migrator } from '../../../src/migrate/migrate.js';
import { quoteIdentifier } from '../../../src/postgres/table-name.js';
import { catalogueOf } from '../../support/catalogue.js';
import { queryOn } from '../../support/empty-database.js';
import { database, NAMES, open, withAnEmptyDatabaseEach } from './lab.js';

withAnEmptyDatabaseEach();

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
      `AddTraceContext_${schema}_1763942400000`,
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
