import type { NewRecord } from '../../protocol/request.js';
import { firstSettings, SETTINGS_STATEMENTS, TRANSACTION_MARKER } from '../session-settings.js';
import { BEGIN, CHECK_CONSTRAINTS, COMMIT, epochMs, lookUpStatement, ROLLBACK, UNLOCK } from './shared-statements.js';

/** The statements of transaction mode. */
export function keyStatementsOn(table: string) {
  return {
    begin: BEGIN,
    claim: {
      id: 'claim',
      // The settings ride along.
      text: `select pg_try_advisory_xact_lock($1::int8), ${firstSettings('$2')}`,
    },
    tryLock: { id: 'try_lock', text: 'select pg_try_advisory_xact_lock($1::int8)' },
    lookUp: lookUpStatement(table),
    savepoint: { id: 'savepoint', text: 'savepoint idempotency_claim' },
    undo: { id: 'undo', text: 'rollback to savepoint idempotency_claim' },
    unlock: UNLOCK,
    checkConstraints: CHECK_CONSTRAINTS,
    ...SETTINGS_STATEMENTS,
    insert: {
      id: 'insert',
      // Two columns become null, which their constraints refuse, when the row must not be written: claim_id when the
      // claim's transaction is over, created_at when the row met is not an expired one. Being errors, they keep the
      // COMMIT behind them from being executed. An operation of lease mode that has expired stays named, so that its steps
      // go when this row does.
      text: `insert into ${table} as k (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
          response_status, response_headers, response_body, response_bytes, created_at, expires_at, trace_context)
        values ($1::text, $2::text, $3::bytea, $4::int2, $5::text, $6::text,
          case when ${TRANSACTION_MARKER} = $13::text then $7::uuid end,
          $8::int2, $9::jsonb, $10::bytea, $11::int8,
          clock_timestamp(), clock_timestamp() + $12::float8 * interval '1 millisecond', $14::text)
        on conflict (scope, key) do update set
          fingerprint = excluded.fingerprint, fingerprint_version = excluded.fingerprint_version,
          method = excluded.method, path = excluded.path, claim_id = excluded.claim_id,
          response_status = excluded.response_status, response_headers = excluded.response_headers,
          response_body = excluded.response_body, response_bytes = excluded.response_bytes,
          created_at = case when k.expires_at <= excluded.created_at then excluded.created_at end,
          expires_at = excluded.expires_at, lease_expires_at = null, attention = null,
          trace_context = excluded.trace_context
        returning ${epochMs('expires_at')}`,
    },
    commit: COMMIT,
    rollback: ROLLBACK,
  } as const;
}

/** @param marker of the transaction of the claim */
export function insertValues({ request, claimId, response }: NewRecord, marker: string): (string | Buffer | null)[] {
  return [
    request.scope,
    request.key,
    request.fingerprint,
    String(request.fingerprintVersion),
    request.method,
    request.path,
    claimId,
    String(response.status),
    JSON.stringify(response.headers),
    response.body,
    String(response.bodyBytes),
    String(request.options.ttlMs),
    marker,
    request.traceContext ?? null,
  ];
}
