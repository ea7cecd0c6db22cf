import { describe, expect, it } from '@jest/globals';
import { idempotencyMigrations } from '../../../migrations/index.js';
import { Migrator } from '../../../src/migrate/migrate.js';
import { STEPS_TABLE } from '../../../src/postgres/table-name.js';
import { catalogueOf } from '../../support/catalogue.js';
import { queryOn } from '../../support/empty-database.js';
import { catalogues, database, NAMES, open, withAnEmptyDatabaseEach } from './lab.js';

withAnEmptyDatabaseEach();

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
      'trace_context text',
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
