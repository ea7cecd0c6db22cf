import type { MigrationRunner } from '../postgres/ddl/migration-runner.js';
import { tableName } from '../postgres/table-name.js';

/** Apart from the application's own `migrations` table, so that neither reverts the other's work. */
export const HISTORY_TABLE = 'idempotency_migrations';

/** TypeORM's record of what was applied, column for column: `typeorm migration:*` can read it and go on from it. */
export class MigrationHistory {
  private readonly table: string;

  constructor(schema: string | undefined) {
    this.table = tableName(HISTORY_TABLE, schema);
  }

  /** The names of the applied migrations, oldest first. */
  async names(runner: MigrationRunner): Promise<string[]> {
    if (!(await this.exists(runner))) {
      return [];
    }
    const rows = (await runner.query(`select name from ${this.table} order by id`)) as { name: string }[];
    return rows.map((row) => row.name);
  }

  async create(runner: MigrationRunner): Promise<void> {
    await runner.query(`
create table if not exists ${this.table} (
  id serial primary key,
  timestamp bigint not null,
  name character varying not null
)`);
  }

  async add(runner: MigrationRunner, name: string): Promise<void> {
    await runner.query(`insert into ${this.table} (timestamp, name) values ($1::bigint, $2::varchar)`, [
      timestampOf(name),
      name,
    ]);
  }

  async remove(runner: MigrationRunner, name: string): Promise<void> {
    await runner.query(`delete from ${this.table} where name = $1::varchar`, [name]);
  }

  private async exists(runner: MigrationRunner): Promise<boolean> {
    const rows = (await runner.query(`select to_regclass($1::text) is not null as exists`, [this.table])) as {
      exists: boolean;
    }[];
    return rows[0]?.exists === true;
  }
}

/** TypeORM ends the name of a migration in the 13 digits of a JavaScript time. */
function timestampOf(name: string): string {
  return name.slice(-13);
}
