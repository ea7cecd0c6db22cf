import { KEYS_TABLE, STEPS_TABLE } from '../table-name.js';

/** What a row is known by. ON CONFLICT asks for a unique index over just these columns, under whatever name. */
export const ROW_IDENTITY = { [KEYS_TABLE]: ['scope', 'key'], [STEPS_TABLE]: ['execution_id', 'name'] } as const;

/** SQL of whether ON CONFLICT finds such an index: `table` is an expression for its oid, `columns` one for a text[]. */
export function hasUniqueIndex(table: string, columns: string): string {
  return `exists (
    select from pg_index i
    where i.indrelid = ${table} and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null
      and array(select a.attname::text from unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) number
                  left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = number order by 1)
        = array(select name from unnest(${columns}) name order by 1))`;
}

/** What to run where there is none. @param table as SQL names it */
export function uniqueIndexRemedy(table: string, columns: readonly string[]): string {
  return (
    `alter table ${table} add unique (${columns.join(', ')}); PostgreSQL refuses that where the table is partitioned by ` +
    `another column, as by time: then partition it by ${columns[0] === 'scope' ? 'key or scope' : columns[0]}.`
  );
}
