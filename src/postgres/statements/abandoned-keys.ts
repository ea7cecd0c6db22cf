import { ANY_POSITION } from '../../protocol/step.js';
import type { HeaderLine } from '../../protocol/response.js';
import { type Queryable, rowsOf } from '../queryable.js';
import { tablesIn } from '../table-name.js';
import type { Holder } from './lease-statements.js';

/** Rows without a response that nobody holds any more. */
const ABANDONED = `scope = $1::text and key = $2::text and response_status is null
           and expires_at > statement_timestamp() and (lease_expires_at is null or lease_expires_at <= statement_timestamp())`;

/** What an operator decides of operations in lease mode that wait. */
export class AbandonedKeys {
  private readonly keys: string;
  private readonly steps: string;

  constructor(
    private readonly db: Queryable,
    schema?: string,
  ) {
    ({ keys: this.keys, steps: this.steps } = tablesIn(schema));
  }

  /** An operator's answer to a key that nobody holds; false when there is no such key, or somebody holds it. */
  async resolve(
    { scope, key, claimId }: Holder,
    response: { status: number; headers: HeaderLine[]; body: Buffer },
    ttlMs: number,
  ): Promise<boolean> {
    const rows = await rowsOf<{ count: number }>(
      this.db,
      `with resolved as (
         update ${this.keys}
         set claim_id = $3::uuid, lease_expires_at = null, attention = null, response_status = $4::int2, response_headers = $5::jsonb,
             response_body = $6::bytea, response_bytes = octet_length($6::bytea),
             expires_at = statement_timestamp() + $7::float8 * interval '1 millisecond'
         where ${ABANDONED}
         returning execution_id),
       gone as (delete from ${this.steps} s using resolved r where s.execution_id = r.execution_id)
       select count(*)::int4 as count from resolved`,
      [scope, key, claimId, response.status, JSON.stringify(response.headers), response.body, ttlMs],
    );
    return rows[0]!.count === 1;
  }

  /** An operator's leave to go on; false when there is no such key, or somebody holds it. */
  async release({ scope, key, claimId }: Holder, ttlMs: number): Promise<boolean> {
    const rows = await rowsOf<{ count: number }>(
      this.db,
      `with found as (
         select execution_id, attention ->> 'reason' as reason from ${this.keys} where ${ABANDONED} for update),
       released as (
         update ${this.keys}
         set claim_id = $3::uuid, lease_expires_at = null, attention = null,
             expires_at = statement_timestamp() + $4::float8 * interval '1 millisecond'
         where ${ABANDONED} and exists (select 1 from found)
         returning 1),
       freed as (
         update ${this.steps} s set position = $5::int4
         from found where s.execution_id = found.execution_id and found.reason = 'steps-changed'),
       gone as (
         delete from ${this.steps} s using found
         where s.execution_id = found.execution_id and found.reason = 'effect-unknown' and s.outcome -> 'lost' is not null)
       select count(*)::int4 as count from released`,
      [scope, key, claimId, ttlMs, ANY_POSITION],
    );
    return rows[0]!.count === 1;
  }
}
