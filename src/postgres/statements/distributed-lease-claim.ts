import type { FoundKey } from './shared-statements.js';

/** What tells the statement behind it that the key is its own. */
export const CLAIM_SETTING = 'nestjs_idempotency.claim_id';

/** Whether a claim would not get the key, as a look tells; of what it would get, the claim itself decides. */
export function isTaken(found: FoundKey, { resumes }: { resumes: boolean }): boolean {
  if (found.kind === 'completed') {
    return true;
  }
  const { state, attention } = found.claim;
  return state === 'running' || (state === 'interrupted' && (!resumes || attention?.reason === 'effect-unknown'));
}

/** Whether a claim that gets the key takes over from an attempt whose lease has run out. */
export function isInterrupted(found: FoundKey | undefined): boolean {
  return found?.kind === 'unfinished' && found.claim.state === 'interrupted';
}

/**
 * The claim of lease mode on distributed tables of Citus, which cannot join keys and steps, and where an INSERT ... SELECT
 * that asks for a setting inserts nothing: a worker has no such setting.
 */
export function distributedClaimOn(keys: string, steps: string) {
  return {
    clear: {
      id: 'lease_clear',
      // Where the key turns out to be another's, the claim behind it fails, and this is undone.
      text: `with stale as materialized (
          select execution_id from ${keys}
          where scope = $1::text and key = $2::text and expires_at <= statement_timestamp() and execution_id is not null
          for update)
        delete from ${steps} s using stale where s.execution_id = stale.execution_id`,
    },
    claim: {
      id: 'lease_claim_distributed',
      // VALUES are computed where the setting is. claim_id becomes null, which its constraint refuses, where a request in
      // transaction mode holds the lock.
      text: `insert into ${keys} as k (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
          execution_id, attempt, lease_expires_at, created_at, expires_at)
        values ($1::text, $2::text, $3::bytea, $4::int2, $5::text, $6::text,
          case when current_setting('${CLAIM_SETTING}', true) = $7::text then $7::uuid end, $7::uuid, 1,
          statement_timestamp() + $8::float8 * interval '1 millisecond', statement_timestamp(),
          case when $10::bool then statement_timestamp() + ($8::float8 + $9::float8) * interval '1 millisecond'
            else 'infinity' end)
        on conflict (scope, key) do update set
          fingerprint = excluded.fingerprint, fingerprint_version = excluded.fingerprint_version,
          method = excluded.method, path = excluded.path, claim_id = excluded.claim_id,
          execution_id = case when k.expires_at <= excluded.created_at then excluded.execution_id else k.execution_id end,
          attempt = case when k.expires_at <= excluded.created_at then 1 else k.attempt + 1 end,
          lease_expires_at = excluded.lease_expires_at, attention = null,
          response_status = null, response_headers = null, response_body = null, response_bytes = null,
          created_at = case when k.expires_at <= excluded.created_at then excluded.created_at else k.created_at end,
          expires_at = excluded.expires_at
        where k.expires_at <= excluded.created_at
          or (k.response_status is null
            and (k.attention ->> 'reason') is distinct from 'effect-unknown'
            and k.fingerprint = excluded.fingerprint and k.fingerprint_version = excluded.fingerprint_version
            and (k.lease_expires_at is null
              or (k.lease_expires_at <= excluded.created_at and excluded.expires_at < 'infinity')))`,
    },
    held: {
      id: 'lease_held',
      text: `select attempt, execution_id from ${keys}
        where scope = $1::text and key = $2::text and claim_id = $3::uuid and response_status is null`,
    },
    finished: {
      id: 'lease_finished',
      text: `select name, position, outcome from ${steps} where execution_id = $1::uuid order by position, created_at`,
    },
  } as const;
}
