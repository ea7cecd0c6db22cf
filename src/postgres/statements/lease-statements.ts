import type { NewRecord } from '../../protocol/request.js';
import { ANY_POSITION } from '../../protocol/step.js';
import type { KeyIdentity } from '../../protocol/stored-key.js';
import type { Statement } from '../statement-batch.js';
import { firstSettings, SETTINGS_STATEMENTS, TRANSACTION_MARKER } from '../session-settings.js';
import {
  CHECK_CONSTRAINTS,
  COMMIT,
  DURABLE_COMMIT,
  epochMs,
  lookUpStatement,
  READABLE_LITERALS,
  ROLLBACK,
  UNLOCK,
} from './shared-statements.js';

/** Whose statement it is: one attempt, by its fencing token `claimId`. */
export interface Holder extends KeyIdentity {
  claimId: string;
}

export interface NewStep extends Holder {
  name: string;
  position: number;
  attempt: number;
  /** JSON of a {@link StepOutcome}. */
  outcome: string;
}

/** Rows that are still the holder's, and wait for a response. */
const HELD = 'scope = $1::text and key = $2::text and claim_id = $3::uuid and response_status is null';

const recording = (keys: string): string => `update ${keys}
          set lease_expires_at = null, attention = null, response_status = $4::int2, response_headers = $5::jsonb,
            response_body = $6::bytea, response_bytes = $7::int8, trace_context = $9::text,
            expires_at = statement_timestamp() + $8::float8 * interval '1 millisecond'
          where ${HELD}`;

/** What the holder of a key runs. */
export function leaseStatementsOn(keys: string, steps: string) {
  return {
    lookUp: lookUpStatement(keys),
    renew: {
      id: 'lease_renew',
      text: `update ${keys} set lease_expires_at = statement_timestamp() + $4::float8 * interval '1 millisecond',
          expires_at = greatest(statement_timestamp() + ($4::float8 + $5::float8) * interval '1 millisecond',
            case when expires_at = 'infinity' then expires_at end)
        where ${HELD} and lease_expires_at is not null`, // one that was given back stays so
    },
    renewal: {
      id: 'lease_renewal',
      text: `select set_config('lock_timeout', $1::text, true), ${DURABLE_COMMIT}, ${READABLE_LITERALS}`,
    },
    durable: { id: 'lease_durable', text: `select ${DURABLE_COMMIT}, ${READABLE_LITERALS}` },
    limits: { id: 'lease_limits', text: `select ${firstSettings('$1')}` },
    hold: { id: 'lease_hold', text: `select 1 from ${keys} where ${HELD} for share` },
    // Alone, where the marker would be compared on another node, whose transaction is another one.
    sameTransaction: {
      id: 'lease_same_transaction',
      text: `select 1 / (${TRANSACTION_MARKER} = $1::text)::int4`,
    },
    step: {
      id: 'lease_step',
      // The row lock keeps a takeover out until this commits; without it one could slip in between. A holder that was
      // fenced off finds no row, so that attempt is null, and created_at is null when the transaction is not the one
      // that was begun: both are refused, and a COMMIT behind them is not executed. By execution_id a row goes to its
      // partition or shard, of which there may be none for null.
      text: `with held as materialized (select execution_id from ${keys} where ${HELD} for share)
        insert into ${steps} (execution_id, name, position, attempt, outcome, scope, key, created_at)
        select coalesce((select execution_id from held), $3::uuid), $4::text, $5::int4,
          case when exists (select from held) then $6::int4 end, $7::json, $1::text, $2::text,
          case when $8::text is null or ${TRANSACTION_MARKER} = $8::text then clock_timestamp() end
        on conflict (execution_id, name) do nothing`,
    },
    record: {
      id: 'lease_record',
      text: `with recorded as (
          ${recording(keys)}
          returning execution_id, expires_at),
        gone as (delete from ${steps} s using recorded r where s.execution_id = r.execution_id)
        select ${epochMs('expires_at')} from recorded`,
    },
    attend: { id: 'lease_attend', text: `update ${keys} set attention = $4::jsonb where ${HELD}` },
    release: {
      id: 'lease_release',
      text: `with released as (
          update ${keys} set lease_expires_at = null, attention = $5::jsonb,
            expires_at = statement_timestamp() + $4::float8 * interval '1 millisecond'
          where ${HELD}
          returning execution_id),
        -- what came behind a failure that is withdrawn need not be come by again
        freed as (
          update ${steps} s set position = ${ANY_POSITION} from released r
          where s.execution_id = r.execution_id and json_array_length($6::json) > 0
            and s.name not in (select json_array_elements_text($6::json)))
        delete from ${steps} s using released r
        where s.execution_id = r.execution_id and s.name in (select json_array_elements_text($6::json))`,
    },
    interrupt: {
      id: 'lease_interrupt',
      text: `update ${keys} set lease_expires_at = statement_timestamp(), expires_at = 'infinity' where ${HELD}`,
    },
    withdraw: { id: 'lease_withdraw', text: `delete from ${keys} where ${HELD}` },
    unlock: UNLOCK,
    checkConstraints: CHECK_CONSTRAINTS,
    ...SETTINGS_STATEMENTS,
    commit: COMMIT,
    rollback: ROLLBACK,
  } as const;
}

/**
 * What a holder ends by on distributed tables of Citus. Steps go by a DELETE of their own, which names their shard: in one
 * statement with the key's row it is one of all shards, and waits for all others of its kind while it holds that row.
 */
export function distributedEndingsOn(keys: string, steps: string) {
  return {
    record: {
      id: 'lease_record_alone',
      // The holder that was fenced off fails, so that the steps behind this, the new holder's, stay.
      text: `with recorded as (
          ${recording(keys)}
          returning expires_at)
        select 1 / count(*), ${epochMs('max(expires_at)')} from recorded`,
    },
    forget: forgetStatement(steps),
    release: {
      id: 'lease_release_alone',
      text: `update ${keys} set lease_expires_at = null, attention = $5::jsonb,
          expires_at = statement_timestamp() + $4::float8 * interval '1 millisecond'
        where ${HELD}`,
    },
  } as const;
}

export function forgetStatement(steps: string): Statement {
  return { id: 'lease_forget_steps', text: `delete from ${steps} where execution_id = $1::uuid` };
}

export function renewalValues(
  { scope, key, claimId }: Holder,
  { leaseMs, ttlMs }: { leaseMs: number; ttlMs: number },
): string[] {
  return [scope, key, claimId, String(leaseMs), String(ttlMs)];
}

/** @param marker of the transaction that the step's writes are in, or null where it has none */
export function stepValues(
  { scope, key, claimId, name, position, attempt, outcome }: NewStep,
  marker: string | null,
): (string | null)[] {
  return [scope, key, claimId, name, String(position), String(attempt), outcome, marker];
}

export function recordValues({ request, claimId, response }: NewRecord): (string | Buffer | null)[] {
  return [
    request.scope,
    request.key,
    claimId,
    String(response.status),
    JSON.stringify(response.headers),
    response.body,
    String(response.bodyBytes),
    String(request.options.ttlMs),
    request.traceContext ?? null,
  ];
}
