import type { Migration, MigrationRunner } from '../src/postgres/ddl/migration-runner.js';
import { dataSourceOf } from '../src/postgres/data-source-of.js';
import { dataSourceSchema } from '../src/postgres/data-source-schema.js';
import { changeTable } from '../src/postgres/ddl/patient-ddl.js';
import { hasColumn } from '../src/postgres/ddl/own-table.js';
import { KEYS_TABLE, STEPS_TABLE, tableName } from '../src/postgres/table-name.js';

/** Lease mode: what an operator has to know of an operation that has not ended, and steps that ran side by side. */
export class AddAttention1763856000000 implements Migration {
  readonly name: string = 'AddAttention1763856000000';

  constructor(private readonly schema?: string) {}

  async up(runner: MigrationRunner): Promise<void> {
    const keys = this.table(runner, KEYS_TABLE);
    if (await hasColumn(runner, keys, 'attention')) {
      return;
    }
    // A new column without a default changes the catalogue alone. No constraint ties it to the others: while a deploy is
    // under way, instances of the version before know nothing of it and must still be able to record.
    await changeTable(runner, keys, `alter table ${keys} add column attention jsonb`);
    await runner.query(
      `comment on column ${keys}.attention is 'Lease mode: what the last attempt has left to an operator, {"reason", "steps", "detail"}. With the reason effect-unknown no retry goes on by itself.'`,
    );
    await this.commentOnSteps(
      runner,
      'One more than the steps that had ended in its attempt when it began: steps that ran side by side may share it.',
      'What later attempts get without running it: {"returned": value}, or {"threw": {status, response}} for an error, with "failure" beside it where the handler acted upon the error, and "lost" where the result could not be kept.',
    );
  }

  async down(runner: MigrationRunner): Promise<void> {
    const keys = this.table(runner, KEYS_TABLE);
    await changeTable(runner, keys, `alter table ${keys} drop column attention`);
    await this.commentOnSteps(
      runner,
      'Which step of its attempt it was, counted from 1: a later attempt must come by in the same order.',
      'What later attempts get without running it: {"returned": value}, or {"threw": {status, response}} for an HTTP error that is stored.',
    );
  }

  private async commentOnSteps(runner: MigrationRunner, position: string, outcome: string): Promise<void> {
    const steps = this.table(runner, STEPS_TABLE);
    await runner.query(`comment on column ${steps}.position is '${position}'`);
    await runner.query(`comment on column ${steps}.outcome is '${outcome}'`);
  }

  private table(runner: MigrationRunner, table: string): string {
    return tableName(table, this.schema ?? dataSourceSchema(dataSourceOf(runner)));
  }
}
