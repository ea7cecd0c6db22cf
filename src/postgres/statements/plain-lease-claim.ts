import type { PoolClient } from 'pg';
import {
  type ClaimTools,
  ENTER,
  entered,
  finishedStepOf,
  HAS_LOCK,
  type LeaseAttempt,
  LeaseClaim,
  type LeaseResult,
  leaseValues,
  TAKE_OVER,
} from './lease-claim.js';
import { BEGIN, COMMIT, foundKeyOf, lookUpStatement } from './shared-statements.js';

/** The claim of lease mode on plain and partitioned tables: one round trip, whatever the key holds. */
export class PlainLeaseClaim extends LeaseClaim<ReturnType<typeof textsOn>> {
  constructor(tools: ClaimTools) {
    super(tools, textsOn(tools.keys, tools.steps));
  }

  async claim(client: PoolClient, attempt: LeaseAttempt): Promise<LeaseResult> {
    const { request, claimId } = attempt;
    const { scope, key } = request;
    const { claim, lookUp, progress } = this.texts;
    const results = await this.tools.run(client, [
      { statement: BEGIN['READ COMMITTED'] },
      { statement: ENTER, values: [this.tools.lockOf(request), claimId] },
      { statement: claim, values: leaseValues(attempt) },
      { statement: lookUp, values: [scope, key] },
      { statement: progress, values: [scope, key, claimId] },
      { statement: COMMIT },
    ]);
    const defaultIsolation = entered(results[1]!, this.tools);
    const found = results[3]!.rows[0];
    if (found === undefined) {
      return { kind: 'in flight' }; // a request in transaction mode holds the lock
    }
    const [started] = results[4]!.rows[0] ?? [];
    return started === undefined || started === null
      ? foundKeyOf(found)
      : {
          kind: 'claimed',
          attempt: Number(started),
          tookOver: started !== '1' && results[2]!.rows[0]?.[0] === 't',
          steps: results[4]!.rows.flatMap(finishedStepOf),
          defaultIsolation,
        };
  }
}

function textsOn(keys: string, steps: string) {
  return {
    claim: {
      id: 'lease_claim',
      // One reading of the clock, the proposed row's, decides everything. The row of a key that is taken is not
      // touched: that would lock it and write WAL for each duplicate. One that has expired is locked before its steps go:
      // its holder may yet renew it. What reads from `gone` has it come first.
      text: `with now as materialized (select clock_timestamp() as at),
        stale as (
          select k.execution_id from ${keys} k, now
          where k.scope = $1::text and k.key = $2::text and k.expires_at <= now.at and k.execution_id is not null
            and ${HAS_LOCK}
          for update of k),
        gone as (delete from ${steps} s using stale where s.execution_id = stale.execution_id returning 1)
        insert into ${keys} as k (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
          execution_id, attempt, lease_expires_at, created_at, expires_at)
        select $1::text, $2::text, $3::bytea, $4::int2, $5::text, $6::text, $7::uuid, $7::uuid, 1,
          at + $8::float8 * interval '1 millisecond', at,
          case when $10::bool then at + ($8::float8 + $9::float8) * interval '1 millisecond' else 'infinity' end
        from now
        where ${HAS_LOCK} and (select count(*) from gone) >= 0 and not exists (
          select 1 from ${keys} taken
          where taken.scope = $1::text and taken.key = $2::text and taken.expires_at > at
            and (taken.response_status is not null or taken.lease_expires_at > at
              or (taken.lease_expires_at is not null and not $10::bool)
              or taken.attention ->> 'reason' = 'effect-unknown'))
        ${TAKE_OVER}
            and (k.lease_expires_at is null or (k.lease_expires_at <= excluded.created_at and $10::bool)))
        -- as this statement found it: of an attempt that has ended by itself there is no lease
        returning (select before.lease_expires_at is not null from ${keys} before
          where before.scope = $1::text and before.key = $2::text)`,
    },
    lookUp: lookUpStatement(keys),
    progress: {
      id: 'lease_progress',
      text: `select k.attempt, s.name, s.position, s.outcome
        from ${keys} k left join ${steps} s on s.execution_id = k.execution_id
        where k.scope = $1::text and k.key = $2::text and k.claim_id = $3::uuid and k.response_status is null
        order by s.position, s.created_at`,
    },
  } as const;
}
