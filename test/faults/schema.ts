import type { Client } from 'pg';
import { DataSource } from 'typeorm';
import { idempotencyMigrations } from '../../migrations/index.js';
import { turnTablesInto } from '../support/table-kinds.js';
import { LEASE_SCHEMA } from './lease/lease-schema.js';
import { ROUTE_LIMITS } from './routes.js';

/** For the suite's own writes: the server is set to forget what was committed a moment before it is killed. */
export const DURABLE = { options: '-c synchronous_commit=on' };

/**
 * The application's tables, and a journal that a trigger writes: every record of a key, with the transaction that made
 * it, in that transaction. It outlives purges and later lives of the key, so the oracle knows all that ever committed.
 */
const APPLICATION_SCHEMA = `
  create table effects (
    nonce uuid primary key, key text not null, amount int not null,
    xact text not null default pg_current_xact_id()::text, at timestamptz not null default clock_timestamp());
  create index on effects (key);
  create table postings (
    nonce uuid primary key, account text not null, amount int not null,
    xact text not null default pg_current_xact_id()::text);
  create table accounts (id text primary key, balance int not null);
  insert into accounts select 'account-' || n, 0 from generate_series(0, ${ROUTE_LIMITS.accounts - 1}) n;

  create table journal (
    id bigserial primary key, event text not null, key text not null, claim_id uuid not null, xact text not null,
    status int not null, body_sha text, created_at timestamptz not null, expires_at timestamptz not null,
    at timestamptz not null default clock_timestamp());
  create index on journal (key);

  create function write_journal() returns trigger language plpgsql as $$
  declare
    r idempotency_keys := coalesce(new, old);
  begin
    if r.attempt is not null then
      return null; -- lease mode has a journal of its own
    end if;
    insert into journal (event, key, claim_id, xact, status, body_sha, created_at, expires_at)
    values (
      case when tg_op = 'DELETE' then 'purged' when tg_op = 'UPDATE' and new.claim_id = old.claim_id then 'back-dated'
        else 'recorded' end,
      r.key, r.claim_id, pg_current_xact_id()::text, r.response_status, encode(sha256(r.response_body), 'hex'),
      r.created_at, r.expires_at);
    return null;
  end $$;
  create trigger journal after insert or update or delete on idempotency_keys
    for each row execute function write_journal();`;

export async function createSchema(url: string, partitioned: boolean): Promise<void> {
  const dataSource = await new DataSource({
    type: 'postgres',
    url,
    migrations: idempotencyMigrations,
    extra: DURABLE,
  }).initialize();
  try {
    await dataSource.runMigrations();
    if (partitioned) {
      await turnTablesInto('8 HASH partitions', url);
    }
    await dataSource.query(APPLICATION_SCHEMA);
    await dataSource.query(LEASE_SCHEMA);
    // Thousands of starts and cuts mean tens of thousands of logins; by default each hashes the password 4,096 times.
    const { username, password } = new URL(url);
    await dataSource.query(`set scram_iterations = 1; alter role ${username} password '${password}'`);
  } finally {
    await dataSource.destroy();
  }
}

/** What a round leaves to the next one: the keys that will be asked for again. */
export async function forgetAllBut(client: Client, keys: string[]): Promise<void> {
  await client.query('delete from idempotency_keys where attempt is null and key <> all ($1)', [keys]);
  await client.query('delete from effects where key <> all ($1)', [keys]);
  await client.query('delete from journal where key <> all ($1)', [keys]);
  await client.query('delete from postings where nonce not in (select nonce from effects)');
  await client.query(`update accounts set balance = 0 where id like 'account-%'`);
}
