import { DataSource } from 'typeorm';
import { Migrator } from '../../src/migrate/migrate.js';
import { KEYS_TABLE, STEPS_TABLE } from '../../src/postgres/table-name.js';
import { queryOn } from './empty-database.js';

/** What people make of the library's tables once these are big. */
export const TABLE_KINDS = ['8 HASH partitions', 'an INHERITS child'] as const;
export type TableKind = (typeof TABLE_KINDS)[number];

export const PARTITIONS = 8;

/** Turns the plain tables of a database into those of `kind`. */
export async function turnTablesInto(kind: TableKind, url: string): Promise<void> {
  await (kind === '8 HASH partitions' ? partition(url) : inherit(url));
}

export function childOf(table: string): string {
  return `${table}_old`;
}

/** As the command line says how to. */
async function partition(url: string): Promise<void> {
  const dataSource = await new DataSource({ type: 'postgres', url }).initialize();
  const runner = dataSource.createQueryRunner();
  try {
    for (const statement of await new Migrator(dataSource).partitionSql(PARTITIONS)) {
      await runner.query(statement);
    }
  } finally {
    await runner.release();
    await dataSource.destroy();
  }
}

async function inherit(url: string): Promise<void> {
  const children = [KEYS_TABLE, STEPS_TABLE].map((table) => `create table ${childOf(table)} () inherits (${table});`);
  await queryOn(url, children.join(''));
}
