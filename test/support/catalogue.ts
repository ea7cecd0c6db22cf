import { KEYS_TABLE, tableName } from '../../src/postgres/table-name.js';
import { queryOn } from './empty-database.js';

export interface Catalogue {
  comment: string | null;
  columns: { name: string; type: string; required: boolean; collation: string | null; comment: string | null }[];
  constraints: { name: string; definition: string }[];
  indexes: { name: string; definition: string }[];
}

/** All that PostgreSQL knows about a table of the library; undefined when there is none. */
export async function catalogueOf(url: string, schema = 'public', table = KEYS_TABLE): Promise<Catalogue | undefined> {
  const [row] = await queryOn<{ catalogue: Catalogue }>(
    url,
    `select jsonb_build_object(
       'comment', obj_description(t.oid, 'pg_class'),
       'columns', (
         select jsonb_agg(jsonb_build_object(
           'name', attname, 'type', format_type(atttypid, atttypmod), 'required', attnotnull,
           'collation', (select collname from pg_collation where oid = attcollation),
           'comment', col_description(t.oid, attnum)) order by attnum)
         from pg_attribute where attrelid = t.oid and attnum > 0 and not attisdropped),
       'constraints', (
         select jsonb_agg(jsonb_build_object('name', conname, 'definition', pg_get_constraintdef(oid)) order by conname)
         from pg_constraint where conrelid = t.oid and contype <> 'n'),
       'indexes', (
         select jsonb_agg(jsonb_build_object(
           'name', i.relname, 'definition', pg_get_indexdef(i.oid)) order by i.relname)
         from pg_index join pg_class i on i.oid = indexrelid where indrelid = t.oid)
     ) as catalogue
     from pg_class t where t.oid = to_regclass($1::text)`,
    [tableName(table, schema)],
  );
  return row?.catalogue;
}
