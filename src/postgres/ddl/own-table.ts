import type { MigrationRunner } from './migration-runner.js';

/**
 * Whether a table of this library is there already: one that the command line made, or the application's DataSource. Its
 * comment tells, so that a table of the same name that came from elsewhere does not pass for it.
 */
export async function isOwnTable(runner: MigrationRunner, table: string): Promise<boolean> {
  const rows = (await runner.query(
    `select obj_description(to_regclass($1::text), 'pg_class') like '%nestjs-idempotency%' as own`,
    [table],
  )) as { own: boolean | null }[];
  return rows[0]?.own === true;
}

/** Whether a column of a table of ours is there already. */
export async function hasColumn(runner: MigrationRunner, table: string, column: string): Promise<boolean> {
  const rows = (await runner.query(
    'select 1 from pg_attribute where attrelid = to_regclass($1::text) and attname = $2::name and not attisdropped',
    [table, column],
  )) as unknown[];
  return rows.length > 0;
}

/** Asked here: TypeORM before 1.0 puts the name into its own question as it is, quotes and all. */
export async function hasSchema(runner: MigrationRunner, schema: string): Promise<boolean> {
  const rows = (await runner.query('select 1 from pg_namespace where nspname = $1::name', [schema])) as unknown[];
  return rows.length > 0;
}
