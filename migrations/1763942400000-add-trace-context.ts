import type { Migration, MigrationRunner } from '../src/postgres/ddl/migration-runner.js';
import { dataSourceOf } from '../src/postgres/data-source-of.js';
import { dataSourceSchema } from '../src/postgres/data-source-schema.js';
import { changeTable } from '../src/postgres/ddl/patient-ddl.js';
import { hasColumn } from '../src/postgres/ddl/own-table.js';
import { KEYS_TABLE, tableName } from '../src/postgres/table-name.js';

/** The trace of the request whose response was recorded, for replays to link to. */
export class AddTraceContext1763942400000 implements Migration {
  readonly name: string = 'AddTraceContext1763942400000';

  constructor(private readonly schema?: string) {}

  async up(runner: MigrationRunner): Promise<void> {
    const keys = this.table(runner);
    if (await hasColumn(runner, keys, 'trace_context')) {
      return;
    }
    // Without a default it changes the catalogue alone; instances of the version before leave it null.
    await changeTable(runner, keys, `alter table ${keys} add column trace_context text`);
    await runner.query(
      `comment on column ${keys}.trace_context is 'The traceparent (W3C Trace Context) of the request that was carried out. Null where it was not traced.'`,
    );
  }

  async down(runner: MigrationRunner): Promise<void> {
    const keys = this.table(runner);
    await changeTable(runner, keys, `alter table ${keys} drop column trace_context`);
  }

  private table(runner: MigrationRunner): string {
    return tableName(KEYS_TABLE, this.schema ?? dataSourceSchema(dataSourceOf(runner)));
  }
}
