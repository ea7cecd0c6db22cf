import type { Client } from 'pg';
import { LEASE_LIMITS } from '../routes.js';

/**
 * What operations in lease mode write, and journals of all that becomes of their keys and steps, each line with the
 * transaction and the instance that made it: neither a former holder nor a second one passes unseen.
 */
export const LEASE_SCHEMA = `
  create table bookings (
    nonce uuid primary key, key text not null, amount int not null,
    xact text not null default pg_current_xact_id()::text);
  create index on bookings (key);
  insert into accounts select 'lease-' || n, 0 from generate_series(0, ${LEASE_LIMITS.accounts - 1}) n;

  create table lease_journal (
    id bigserial primary key, event text not null, key text not null, execution_id uuid not null, attempt int not null,
    status int, body_sha text, lease_lives bool, key_lives bool,
    session text not null default current_setting('application_name'),
    xact text not null default pg_current_xact_id()::text);
  create index on lease_journal (key);

  create function write_lease_journal() returns trigger language plpgsql as $$
  declare
    r idempotency_keys := coalesce(new, old);
  begin
    if r.attempt is null then
      return null;
    end if;
    insert into lease_journal (event, key, execution_id, attempt, status, body_sha, lease_lives, key_lives)
    values (
      case
        when tg_op = 'INSERT' then 'claimed'
        when tg_op = 'DELETE' then case when old.expires_at > clock_timestamp() then 'withdrawn' else 'purged' end
        when new.execution_id <> old.execution_id then 'claimed'
        when old.response_status is not null then 'changed'
        when new.attempt <> old.attempt then case when old.lease_expires_at is null then 'resumed' else 'taken over' end
        when new.claim_id <> old.claim_id then
          case when new.response_status is not null then 'resolved' else 'let go on' end
        when new.response_status is not null then 'recorded'
        when new.lease_expires_at is null then 'released'
        when new.lease_expires_at < old.lease_expires_at then 'back-dated'
        else 'renewed' end,
      r.key, r.execution_id, r.attempt, r.response_status, encode(sha256(r.response_body), 'hex'),
      old.lease_expires_at > clock_timestamp(), old.expires_at > clock_timestamp());
    return null;
  end $$;
  create trigger lease_journal after insert or update or delete on idempotency_keys
    for each row execute function write_lease_journal();

  create table step_journal (
    key text not null, execution_id uuid not null, name text not null, attempt int not null,
    session text not null default current_setting('application_name'),
    xact text not null default pg_current_xact_id()::text);
  create index on step_journal (key);

  -- Rests now and then before the COMMIT: a takeover that nothing keeps out has time to slip in.
  create function write_step_journal() returns trigger language plpgsql as $$
  begin
    insert into step_journal (key, execution_id, name, attempt) values (new.key, new.execution_id, new.name, new.attempt);
    if random() < 0.2 then
      perform pg_sleep(random() * ${(1.25 * LEASE_LIMITS.leaseMs) / 1_000});
    end if;
    return null;
  end $$;
  -- A failure that is remembered is no finished step, and may be withdrawn.
  create trigger step_journal after insert on idempotency_steps for each row
    when (new.outcome -> 'failure' is null) execute function write_step_journal();`;

/** What a round leaves to the next one: the keys that will be asked for again. */
export async function forgetLeasesAllBut(client: Client, keys: string[]): Promise<void> {
  await client.query('delete from idempotency_keys where attempt is not null and key <> all ($1)', [keys]);
  await client.query('delete from idempotency_steps');
  for (const table of ['bookings', 'lease_journal', 'step_journal']) {
    await client.query(`delete from ${table} where key <> all ($1)`, [keys]);
  }
  await client.query(`update accounts set balance = 0 where id like 'lease-%'`);
}
