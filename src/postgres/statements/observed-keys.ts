import { createHash, randomUUID } from 'node:crypto';
import type { IdempotentRequest } from '../../protocol/request.js';
import type { KeyIdentity } from '../../protocol/stored-key.js';
import { type Queryable, rowsOf } from '../queryable.js';
import { KEYS_TABLE, tableName } from '../table-name.js';
import { UNFINISHED_STATE } from './shared-statements.js';

/** What observe mode keeps of a response: nothing that could be sent again. */
export interface ObservedResponse {
  status: number;
  bodyBytes: number;
  /** Of the body, in hexadecimal. */
  sha256: string;
}

export interface ObservedOutcome {
  request: IdempotentRequest;
  response: ObservedResponse;
  /** How long ago the response had ended. */
  endedMsAgo: number;
}

/** What is known of a key, by observe mode or by one that protects. */
export interface ObservedKey {
  fingerprint: Buffer;
  fingerprintVersion: number;
  /** Absent while its request has no response: a lease. */
  response: ObservedResponse | undefined;
  /** False where the response was too large for whoever recorded it. */
  bodyKept: boolean;
  /** Whether this process has observed it. */
  isOwn: boolean;
  /** Since it was recorded, or a little less: what another process has observed it dates by the way to the database. */
  ageMs: number;
}

interface Row {
  fingerprint: string;
  fingerprint_version: number;
  unfinished: boolean;
  status: number;
  bytes: string;
  sha256: string;
  body_kept: boolean;
  is_own: boolean;
  age_ms: number;
}

/**
 * The keys that observe mode has met. They are rows of the same table, for the purge to delete, in scopes of their own:
 * no request of another mode ever finds one, so that none is taken for an operation whose writes have committed. And they
 * hold no body.
 */
export class ObservedKeys {
  private readonly table: string;
  /** Names this process as the one that has written a row. */
  private readonly writerId = randomUUID();

  constructor(schema: string | undefined) {
    this.table = tableName(KEYS_TABLE, schema);
  }

  /** What a request of a protecting mode would find goes before what was observed. */
  async find(db: Queryable, { scope, key }: KeyIdentity): Promise<ObservedKey | undefined> {
    const [row] = await rowsOf<Row>(
      db,
      `select encode(fingerprint, 'hex') as fingerprint, fingerprint_version, ${UNFINISHED_STATE} is not null as unfinished,
              response_status as status, response_bytes::text as bytes,
              case when scope = $1::text then encode(sha256(coalesce(response_body, '')), 'hex')
                   else response_headers -> 0 ->> 1 end as sha256,
              response_body is not null or scope = $2::text as body_kept, claim_id = $4::uuid as is_own,
              extract(epoch from clock_timestamp() - created_at)::float8 * 1000 as age_ms
       from ${this.table}
       where scope in ($1::text, $2::text) and key = $3::text and expires_at > clock_timestamp()
       order by scope = $2::text
       limit 1`,
      [scope, observedScope(scope), key, this.writerId],
    );
    return row === undefined ? undefined : observedKeyOf(row);
  }

  /** Keeps it unless the key is known; false where it is. */
  async add(db: Queryable, { request, response, endedMsAgo }: ObservedOutcome): Promise<boolean> {
    const { scope, key, fingerprint, fingerprintVersion, method, path, options } = request;
    const [row] = await rowsOf<{ added: boolean }>(
      db,
      `with added as (
         insert into ${this.table} as k (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
             response_status, response_headers, response_bytes, created_at, expires_at)
         values ($1::text, $2::text, $3::bytea, $4::int2, $5::text, $6::text, $7::uuid, $8::int2, $9::jsonb, $10::int8,
           clock_timestamp() - $11::float8 * interval '1 millisecond',
           clock_timestamp() + $12::float8 * interval '1 millisecond')
         on conflict (scope, key) do update set
           fingerprint = excluded.fingerprint, fingerprint_version = excluded.fingerprint_version,
           method = excluded.method, path = excluded.path, claim_id = excluded.claim_id,
           response_status = excluded.response_status, response_headers = excluded.response_headers,
           response_bytes = excluded.response_bytes, created_at = excluded.created_at, expires_at = excluded.expires_at
           where k.expires_at <= excluded.created_at
         returning true)
       select exists (select from added) as added`,
      [
        observedScope(scope),
        key,
        fingerprint,
        fingerprintVersion,
        method,
        path,
        this.writerId,
        response.status,
        JSON.stringify([['sha256', response.sha256]]),
        response.bodyBytes,
        endedMsAgo,
        options.ttlMs,
      ],
    );
    return row!.added;
  }
}

/** What the scopes of observed keys begin with. */
export const OBSERVED_SCOPE = 'nestjs-idempotency:observed:';

/** As long for any scope. */
export function observedScope(scope: string): string {
  return `${OBSERVED_SCOPE}${createHash('sha256').update(scope).digest('hex')}`;
}

function observedKeyOf(row: Row): ObservedKey {
  const { fingerprint, fingerprint_version, unfinished, status, bytes, sha256, body_kept, is_own, age_ms } = row;
  return {
    fingerprint: Buffer.from(fingerprint, 'hex'),
    fingerprintVersion: Number(fingerprint_version),
    response: unfinished ? undefined : { status: Number(status), bodyBytes: Number(bytes), sha256 },
    bodyKept: body_kept,
    isOwn: is_own,
    ageMs: Number(age_ms),
  };
}
