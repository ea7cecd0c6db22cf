import { afterEach, beforeEach } from '@jest/globals';
import { DataSource, type DataSourceOptions } from 'typeorm';
import { KEYS_TABLE, STEPS_TABLE } from '../../../src/postgres/table-name.js';
import { catalogueOf } from '../../support/catalogue.js';
import type { TestDatabase } from '../../support/database.js';
import { createEmptyDatabase } from '../../support/empty-database.js';

type PostgresOptions = Extract<DataSourceOptions, { type: 'postgres' }>;

const FIRST = 'CreateIdempotencyKeys1763683200000';
const SECOND = 'AddLeasesAndSteps1763769600000';
const THIRD = 'AddAttention1763856000000';
const FOURTH = 'AddTraceContext1763942400000';
export const NAMES = [FIRST, SECOND, THIRD, FOURTH];

export let database: TestDatabase;
let opened: DataSource[];

export function withAnEmptyDatabaseEach(): void {
  beforeEach(async () => {
    database = await createEmptyDatabase();
    opened = [];
  });

  afterEach(async () => {
    await Promise.all(opened.map((dataSource) => dataSource.destroy()));
    await database.drop();
  });
}

export const catalogues = () =>
  Promise.all([KEYS_TABLE, STEPS_TABLE].map((table) => catalogueOf(database.url, 'public', table)));

export async function open(options: Partial<PostgresOptions> = {}): Promise<DataSource> {
  const dataSource = new DataSource({ type: 'postgres', url: database.url, ...options });
  opened.push(dataSource);
  return dataSource.initialize();
}
