import type { Migration, MigrationRunner } from '../src/postgres/ddl/migration-runner.js';
import { dataSourceOf } from '../src/postgres/data-source-of.js';
import { dataSourceSchema } from '../src/postgres/data-source-schema.js';
import { changeTable } from '../src/postgres/ddl/patient-ddl.js';
import { hasSchema, isOwnTable } from '../src/postgres/ddl/own-table.js';
import { KEYS_TABLE, quoteIdentifier, tableName } from '../src/postgres/table-name.js';

/**
 * Migrations are append-only: once released, a file is never edited, its schema changes come as a new one.
 *
 * Everything is created strictly, without `if not exists`: a table of this name that came from elsewhere must stop the
 * migration, not pass for ours. What is ours already is left as it is: the command line and a DataSource may both run them.
 */
export class CreateIdempotencyKeys1763683200000 implements Migration {
  readonly name: string = 'CreateIdempotencyKeys1763683200000';

  /** TypeORM gives no argument, and the table goes where the DataSource says. */
  constructor(private readonly schema?: string) {}

  async up(runner: MigrationRunner): Promise<void> {
    const table = this.table(runner);
    if (await isOwnTable(runner, table)) {
      return;
    }
    // Asked first, because `create schema if not exists` demands the right to create schemas even when it is there.
    if (this.schema !== undefined && !(await hasSchema(runner, this.schema))) {
      await runner.query(`create schema if not exists ${quoteIdentifier(this.schema)}`);
    }

    // The lengths keep an entry of the primary key below the 2,704 bytes that a b-tree page takes: 510 characters of
    // at most 4 bytes each. Collation "C" compares bytes, so that no upgrade of the system's locales can corrupt it.
    await runner.query(`
create table ${table} (
  scope text collate "C" not null,
  key text collate "C" not null,
  fingerprint bytea not null,
  fingerprint_version smallint not null,
  method text not null,
  path text not null,
  claim_id uuid not null,
  response_status smallint not null,
  response_headers jsonb not null,
  response_body bytea,
  response_bytes bigint not null,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  constraint idempotency_keys_pkey primary key (scope, key),
  constraint idempotency_keys_scope_length check (char_length(scope) <= 255),
  constraint idempotency_keys_key_length check (char_length(key) between 1 and 255),
  constraint idempotency_keys_fingerprint_sha256 check (octet_length(fingerprint) = 32),
  constraint idempotency_keys_response_status_range check (response_status between 100 and 599),
  constraint idempotency_keys_response_headers_array check (jsonb_typeof(response_headers) = 'array'),
  constraint idempotency_keys_response_bytes_match check (
    response_bytes >= 0 and (response_body is null or octet_length(response_body) = response_bytes)
  ),
  constraint idempotency_keys_expires_after_created check (expires_at > created_at)
)`);

    // The purge walks this index, oldest first. Nothing else reads by time.
    await runner.query(`create index idempotency_keys_expires_at_idx on ${table} (expires_at)`);

    await runner.query(
      `comment on table ${table} is 'One row for each idempotency key whose request committed, written in that same transaction (nestjs-idempotency).'`,
    );
    await runner.query(
      `comment on column ${table}.scope is 'Whose key it is: the caller, tenant or whatever the scope option says. Empty when all callers share one scope.'`,
    );
    await runner.query(
      `comment on column ${table}.key is 'The idempotency key that the client sent, without its quotes.'`,
    );
    await runner.query(
      `comment on column ${table}.fingerprint is 'SHA-256 of the request. A retry with another fingerprint is refused.'`,
    );
    await runner.query(
      `comment on column ${table}.fingerprint_version is 'The algorithm that computed the fingerprint, so that later versions can still compare with this row.'`,
    );
    await runner.query(
      `comment on column ${table}.method is 'The HTTP method of the request. For people: the fingerprint covers it.'`,
    );
    await runner.query(
      `comment on column ${table}.path is 'The path of the request. For people: the fingerprint covers it.'`,
    );
    await runner.query(
      `comment on column ${table}.claim_id is 'Names the one attempt that wrote this row: its fencing token. It tells whether a COMMIT whose answer was lost took effect.'`,
    );
    await runner.query(`comment on column ${table}.response_status is 'The HTTP status that every retry gets.'`);
    await runner.query(
      `comment on column ${table}.response_headers is 'The headers that every retry gets: an array of [name, value] pairs in wire order, repeated lines kept apart. The value is null for a header that the handler took away.'`,
    );
    await runner.query(
      `comment on column ${table}.response_body is 'The bytes that every retry gets. Null when the body was too large to keep.'`,
    );
    await runner.query(
      `comment on column ${table}.response_bytes is 'The length of the body in bytes. Of one that was not kept, the bytes counted before it was given up.'`,
    );
    await runner.query(`comment on column ${table}.created_at is 'When the response was recorded.'`);
    await runner.query(
      `comment on column ${table}.expires_at is 'From this moment on the row counts as absent, whether or not it was purged yet.'`,
    );
  }

  /** The schema stays: others may have put things into it. */
  async down(runner: MigrationRunner): Promise<void> {
    await changeTable(runner, this.table(runner), `drop table ${this.table(runner)}`);
  }

  private table(runner: MigrationRunner): string {
    return tableName(KEYS_TABLE, this.schema ?? dataSourceSchema(dataSourceOf(runner)));
  }
}
