import type { Migration, MigrationRunner } from '../src/postgres/ddl/migration-runner.js';
import { dataSourceOf } from '../src/postgres/data-source-of.js';
import { dataSourceSchema } from '../src/postgres/data-source-schema.js';
import { changeTable } from '../src/postgres/ddl/patient-ddl.js';
import { isOwnTable } from '../src/postgres/ddl/own-table.js';
import { KEYS_TABLE, STEPS_TABLE, tableName } from '../src/postgres/table-name.js';

/** Each by an ALTER TABLE of its own: Citus takes no other command beside one. */
const CONSTRAINTS = {
  idempotency_keys_attempt_counts: 'attempt >= 1',
  idempotency_keys_execution_has_attempt: '(execution_id is null) = (attempt is null)',
  idempotency_keys_unfinished_is_leased: 'response_status is not null or attempt is not null',
  idempotency_keys_finished_has_no_lease: 'response_status is null or lease_expires_at is null',
  idempotency_keys_response_whole: `
    (response_status is null) = (response_headers is null)
    and (response_status is null) = (response_bytes is null)
    and (response_status is not null or response_body is null)`,
  idempotency_keys_expires_after_lease: 'lease_expires_at is null or expires_at > lease_expires_at',
};

/** Those that say something of columns that stay; the others go with theirs. */
const DEPENDENT_CONSTRAINTS = [
  'idempotency_keys_unfinished_is_leased',
  'idempotency_keys_finished_has_no_lease',
  'idempotency_keys_response_whole',
];

/** Lease mode: a row that stands while its request still runs, and the steps of its handler that have finished. */
export class AddLeasesAndSteps1763769600000 implements Migration {
  readonly name: string = 'AddLeasesAndSteps1763769600000';

  constructor(private readonly schema?: string) {}

  async up(runner: MigrationRunner): Promise<void> {
    const keys = this.table(runner, KEYS_TABLE);
    const steps = this.table(runner, STEPS_TABLE);
    if (await isOwnTable(runner, steps)) {
      return;
    }

    // New columns without a default and dropped constraints change the catalogue alone: no row is rewritten. New ones read
    // all rows, and under ACCESS EXCLUSIVE, unless that is left for later.
    const validation = runner.isOwn ? ' not valid' : '';
    await changeTable(
      runner,
      keys,
      `
alter table ${keys}
  alter column response_status drop not null,
  alter column response_headers drop not null,
  alter column response_bytes drop not null,
  add column execution_id uuid,
  add column attempt integer,
  add column lease_expires_at timestamptz`,
    );
    for (const [name, condition] of Object.entries(CONSTRAINTS)) {
      await changeTable(runner, keys, `alter table ${keys} add constraint ${name} check (${condition})${validation}`);
    }

    await runner.query(
      `comment on column ${keys}.execution_id is 'Lease mode: names all attempts at one operation, to which its steps belong. Null in transaction mode.'`,
    );
    await runner.query(
      `comment on column ${keys}.attempt is 'Lease mode: how many times the handler was started for this operation. Null in transaction mode.'`,
    );
    await runner.query(
      `comment on column ${keys}.lease_expires_at is 'Lease mode: until then nobody else may take over. Null once the attempt has ended, with a response or without.'`,
    );

    await runner.query(`
create table ${steps} (
  execution_id uuid not null,
  name text collate "C" not null,
  position integer not null,
  attempt integer not null,
  outcome json not null,
  scope text collate "C" not null,
  key text collate "C" not null,
  created_at timestamptz not null,
  constraint idempotency_steps_pkey primary key (execution_id, name),
  constraint idempotency_steps_name_length check (char_length(name) between 1 and 255),
  constraint idempotency_steps_position_counts check (position >= 1),
  constraint idempotency_steps_attempt_counts check (attempt >= 1)
)`);
    // No foreign key to the keys: its trigger would cost the purge a look here for each key that it deletes.
    await runner.query(
      `comment on table ${steps} is 'The finished steps of operations that have not ended yet (lease mode of nestjs-idempotency). They go when the response is recorded.'`,
    );
    await runner.query(`comment on column ${steps}.execution_id is 'The operation, as in idempotency_keys.'`);
    await runner.query(`comment on column ${steps}.name is 'The name that the handler gave the step.'`);
    await runner.query(
      `comment on column ${steps}.position is 'Which step of its attempt it was, counted from 1: a later attempt must come by in the same order.'`,
    );
    await runner.query(`comment on column ${steps}.attempt is 'The attempt that ran it.'`);
    await runner.query(
      `comment on column ${steps}.outcome is 'What later attempts get without running it: {"returned": value}, or {"threw": {status, response}} for an HTTP error that is stored.'`,
    );
    await runner.query(`comment on column ${steps}.scope is 'The scope of its idempotency key.'`);
    await runner.query(`comment on column ${steps}.key is 'Its idempotency key.'`);
    await runner.query(`comment on column ${steps}.created_at is 'When the step had finished.'`);
  }

  /** Operations that have not ended cannot be told without these columns: their keys go, and a retry begins anew. */
  async down(runner: MigrationRunner): Promise<void> {
    const keys = this.table(runner, KEYS_TABLE);
    await changeTable(runner, this.table(runner, STEPS_TABLE), `drop table ${this.table(runner, STEPS_TABLE)}`);
    await runner.query(`delete from ${keys} where response_status is null`);
    for (const name of DEPENDENT_CONSTRAINTS) {
      await changeTable(runner, keys, `alter table ${keys} drop constraint ${name}`);
    }
    await changeTable(
      runner,
      keys,
      `
alter table ${keys}
  drop column execution_id,
  drop column attempt,
  drop column lease_expires_at,
  alter column response_status set not null,
  alter column response_headers set not null,
  alter column response_bytes set not null`,
    );
  }

  private table(runner: MigrationRunner, table: string): string {
    return tableName(table, this.schema ?? dataSourceSchema(dataSourceOf(runner)));
  }
}
