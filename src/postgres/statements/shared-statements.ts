import type { Statement } from '../statement-batch.js';
import type { HeaderLine, StoredResponse } from '../../protocol/response.js';
import type { Attention, UnfinishedState } from '../../protocol/stored-key.js';

/** A claim by lease that has not ended with a response. */
export interface UnfinishedClaim {
  claimId: string;
  fingerprint: Buffer;
  fingerprintVersion: number;
  state: UnfinishedState;
  attention: Attention | undefined;
}

/** What a key holds. */
export type FoundKey = { kind: 'completed'; response: StoredResponse } | { kind: 'unfinished'; claim: UnfinishedClaim };

/** How a claim by lease stands that has no response; null for a row that has one. */
export const UNFINISHED_STATE = `case
  when response_status is not null then null
  when lease_expires_at > clock_timestamp() then 'running'
  when lease_expires_at is not null or attention ->> 'reason' = 'effect-unknown' then 'interrupted'
  when attention ->> 'reason' = 'steps-changed' then 'steps-changed'
  else 'released' end`;

/** Not as a date: pg reads those only in the DateStyle ISO. Of an interval it is IMMUTABLE, as Citus demands of RETURNING. */
export function epochMs(column: string): string {
  return `extract(epoch from nullif(${column}, 'infinity') - to_timestamp(0))::numeric * 1000`;
}

/** A part of a statement that deletes keys. By an array: a join is estimated by the batch, and read all steps there are. */
export function withTheirSteps(deleted: string, steps: string): string {
  return `gone as (
              delete from ${steps} where execution_id = any (array(select execution_id from ${deleted})))`;
}

export const BEGIN = {
  default: { id: 'begin', text: 'begin' },
  'READ UNCOMMITTED': { id: 'begin_ru', text: 'begin isolation level read uncommitted' },
  'READ COMMITTED': { id: 'begin_rc', text: 'begin isolation level read committed' },
  'REPEATABLE READ': { id: 'begin_rr', text: 'begin isolation level repeatable read' },
  SERIALIZABLE: { id: 'begin_s', text: 'begin isolation level serializable' },
} as const;

export const COMMIT = { id: 'commit', text: 'commit' } as const;
export const ROLLBACK = { id: 'rollback', text: 'rollback' } as const;
export const CHECK_CONSTRAINTS = { id: 'check', text: 'set constraints all immediate' } as const;

/**
 * Locks of the session that a handler has taken and could not give back, its transaction having failed: on the pooled
 * connection nobody would. Not DISCARD ALL, which takes prepared statements and the settings of the connection along.
 */
export const UNLOCK = { id: 'unlock', text: 'select pg_advisory_unlock_all()' } as const;

/** What a key holds; its rows are read by {@link foundKeyOf}. */
export function lookUpStatement(table: string): Statement {
  return {
    id: 'look_up',
    text: `select claim_id, encode(fingerprint, 'hex'), fingerprint_version, response_status, response_headers,
        encode(response_body, 'hex'), ${epochMs('created_at')}, ${UNFINISHED_STATE}, attention, trace_context,
        ${epochMs('expires_at')}
      from ${table}
      where scope = $1::text and key = $2::text and expires_at > clock_timestamp()`,
  };
}

/** A COMMIT that is not durable would break a promise already given to the client: it is made so where it is not. */
export const DURABLE_COMMIT = `case when current_setting('synchronous_commit') = 'off'
          then set_config('synchronous_commit', 'on', true) else current_setting('synchronous_commit') end`;

/**
 * Citus sends values to its workers as literals, written by this session's settings and read there by the server's own: the
 * fifth of November became the eleventh of May, and `a\b` another key. Where the session's differ, they are put right for the
 * transaction.
 */
export const READABLE_LITERALS = `case when current_setting('datestyle') not like 'ISO%'
          then set_config('datestyle', 'ISO', true) end,
        case when current_setting('standard_conforming_strings') = 'off'
          then set_config('standard_conforming_strings', 'on', true) end`;

/** A row of {@link lookUpStatement}. */
export function foundKeyOf(row: (string | null)[]): FoundKey {
  const [claimId, fingerprint, fingerprintVersion, status, headers, body, createdAtMs, state, attention] = row as [
    string,
    string,
    string,
    string,
    string,
    string | null,
    string,
    UnfinishedState | null,
    string | null,
  ];
  const [traceContext, expiresAtMs] = row.slice(9) as [string | null, string | null];
  const claim = {
    claimId,
    fingerprint: Buffer.from(fingerprint, 'hex'),
    fingerprintVersion: Number(fingerprintVersion),
  };
  if (state !== null) {
    const noted = attention === null ? undefined : (JSON.parse(attention) as Attention);
    return { kind: 'unfinished', claim: { ...claim, state, attention: noted } };
  }
  const response = {
    ...claim,
    status: Number(status),
    headers: JSON.parse(headers) as HeaderLine[],
    body: body === null ? null : Buffer.from(body, 'hex'),
    createdAt: new Date(Number(createdAtMs)),
    expiresAt: new Date(Number(expiresAtMs)),
    traceContext: traceContext ?? undefined,
  };
  return { kind: 'completed', response };
}
