import { KEYS_TABLE, STEPS_TABLE } from '../../src/postgres/table-name.js';
import { queryOn } from './empty-database.js';

/** What people make of the library's tables once these are big. */
export const TABLE_KINDS = ['8 HASH partitions', 'an INHERITS child'] as const;
export type TableKind = (typeof TABLE_KINDS)[number];

const PARTITIONS = 8;

/** Turns the plain, still empty tables of a database into those of `kind`. */
export async function turnTablesInto(kind: TableKind, url: string): Promise<void> {
  await queryOn(
    url,
    kind === '8 HASH partitions'
      ? partitioned(KEYS_TABLE, 'key') + partitioned(STEPS_TABLE, 'execution_id')
      : [KEYS_TABLE, STEPS_TABLE].map((table) => `create table ${childOf(table)} () inherits (${table});`).join(''),
  );
}

export function childOf(table: string): string {
  return `${table}_old`;
}

function partitioned(table: string, column: string): string {
  const partitions = Array.from(
    { length: PARTITIONS },
    (_, n) =>
      `create table ${table}_p${n} partition of ${table} for values with (modulus ${PARTITIONS}, remainder ${n});`,
  );
  return `alter table ${table} rename to ${table}_plain;
    create table ${table} (like ${table}_plain including all) partition by hash (${column});
    ${partitions.join('\n')}
    drop table ${table}_plain;`;
}
