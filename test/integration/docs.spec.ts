import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { blocksOf, read, tableOf, userPages } from '../docs/pages.js';
import { type Catalogue, catalogueOf } from '../support/catalogue.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';

/** What the queries of the documentation take for given, in a transaction that is rolled back. */
const SURROUNDINGS = `
  create role app;
  create role shop_tenant;
  create table invoices (tenant text not null)`;

const QUERIES = userPages()
  .flatMap(blocksOf)
  .filter(({ language, directive }) => language === 'sql' && directive !== 'nothing')
  .map(({ page, line, code }) => [`${page}:${line}`, code] as const);

/** Without what typography adds. */
const plain = (cell = ''): string => cell.replaceAll(/^`|`$/g, '');

/** The sections of docs/schema.md on each table. */
const sections = read('docs/schema.md').split(/^## /m);
const sectionOn = (table: string): string => sections.find((section) => section.startsWith(`${table}\n`)) ?? '';

describe('the documentation', () => {
  let database: TestDatabase;
  let client: Client;

  beforeAll(async () => {
    database = await createTestDatabase();
    client = new Client(database.url);
    await client.connect();
  });

  afterAll(async () => {
    await client.end();
    await database.drop();
  });

  it.each(QUERIES)('has queries that run: %s', async (_, code) => {
    await client.query(`begin; ${SURROUNDINGS}`);
    try {
      await expect(client.query(code)).resolves.toBeDefined();
    } finally {
      await client.query('rollback');
    }
  });

  it('has some of them', () => {
    expect(QUERIES.length).toBeGreaterThan(7);
  });

  describe.each(['idempotency_keys', 'idempotency_steps'])('of the table %s', (table) => {
    let catalogue: Catalogue;

    beforeAll(async () => {
      catalogue = (await catalogueOf(database.url, 'public', table))!;
    });

    it('says what PostgreSQL knows', () => {
      expect(sectionOn(table)).toContain(catalogue.comment);
      expect(tableOf(sectionOn(table), 'column', 'type', 'null').map((row) => row.map(plain))).toEqual(
        catalogue.columns.map(({ name, type, required, comment }) => [name, type, required ? 'no' : 'yes', comment]),
      );
    });

    it.each([
      ['index', 'indexes'],
      ['constraint', 'constraints'],
    ] as const)('has each %s', (head, member) => {
      expect(tableOf(sectionOn(table), head, 'definition').map((row) => row.map(plain))).toEqual(
        catalogue[member].map(({ name, definition }) => [name, definition]),
      );
    });
  });
});
