import type { PoolClient } from 'pg';
import type { FinishedStep } from '../../protocol/step.js';
import { nullColumnOf } from '../sqlstate.js';
import { failedStatement } from '../statement-batch.js';
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
  resumes,
  TAKE_OVER,
} from './lease-claim.js';
import { forgetStatement } from './lease-statements.js';
import { BEGIN, COMMIT, type FoundKey, foundKeyOf, lookUpStatement } from './shared-statements.js';
import { KeyInFlightError } from './store-errors.js';

/**
 * The claim of lease mode on distributed tables of Citus, which cannot join keys and steps, and where an INSERT ... SELECT
 * that asks for a setting inserts nothing: a worker has no such setting.
 */
export class DistributedLeaseClaim extends LeaseClaim<ReturnType<typeof textsOn>> {
  constructor(tools: ClaimTools) {
    super(tools, textsOn(tools.keys, tools.steps));
  }

  /**
   * A look first, so that a key that is taken is not touched, then a claim that decides by itself. The steps of an
   * attempt before are looked up behind it: by then nobody else may add one. Those of an operation that has expired go
   * then, too, by themselves: with the key's row locked, a DELETE that is not of one shard alone waits for all others of
   * its kind, and one of them for this row.
   */
  async claim(client: PoolClient, attempt: LeaseAttempt): Promise<LeaseResult> {
    const { request, claimId } = attempt;
    const { scope, key } = request;
    const { claim, lookUp, expired, held } = this.texts;
    const [look, expiredLook] = await this.tools.run(client, [
      { statement: lookUp, values: [scope, key] },
      { statement: expired, values: [scope, key] },
    ]);
    const [row] = look!.rows;
    const taken = row === undefined ? undefined : foundKeyOf(row);
    if (taken !== undefined && isTaken(taken, attempt)) {
      return taken;
    }
    const results = await this.tools
      .run(client, [
        { statement: BEGIN['READ COMMITTED'] },
        { statement: ENTER, values: [this.tools.lockOf(request), claimId] },
        { statement: claim, values: leaseValues(attempt) },
        { statement: lookUp, values: [scope, key] },
        { statement: held, values: [scope, key, claimId] },
        { statement: COMMIT },
      ])
      .catch((error: unknown) => {
        throw failedStatement(error) === claim && nullColumnOf(error, ['claim_id']) !== undefined
          ? new KeyInFlightError('a request in transaction mode holds the lock', { cause: error })
          : error;
      });
    const defaultIsolation = entered(results[1]!, this.tools);
    const [started, executionId] = results[4]!.rows[0] ?? [];
    if (started === undefined || started === null) {
      const found = results[3]!.rows[0];
      return found === undefined ? { kind: 'in flight' } : foundKeyOf(found);
    }
    const over = expiredLook!.rows.flat().find((id) => id !== executionId);
    return {
      kind: 'claimed',
      attempt: Number(started),
      tookOver: started !== '1' && isInterrupted(taken),
      steps: await this.finishedSteps(client, started, executionId!, over ?? undefined),
      executionId: executionId!,
      defaultIsolation,
    };
  }

  /** @param over an operation that this one has replaced */
  private async finishedSteps(
    client: PoolClient,
    attempt: string,
    executionId: string,
    over: string | undefined,
  ): Promise<FinishedStep[]> {
    const batch = [
      ...(over === undefined ? [] : [{ statement: this.texts.forget, values: [over] }]),
      ...(attempt === '1' ? [] : [{ statement: this.texts.finished, values: [executionId] }]),
    ];
    const rows = batch.length === 0 ? [] : (await this.tools.run(client, batch)).flatMap((result) => result.rows);
    return rows.flatMap(([name, position, outcome]) => finishedStepOf([attempt, name!, position!, outcome!]));
  }
}

/** Whether a claim would not get the key, as a look tells; of what it would get, the claim itself decides. */
function isTaken(found: FoundKey, { request, claimId: own }: LeaseAttempt): boolean {
  if (found.kind === 'completed') {
    return true;
  }
  const { state, attention, claimId } = found.claim;
  // Its own is one that an earlier try has got, whose answer was lost.
  return (
    (state === 'running' && claimId !== own) ||
    (state === 'interrupted' && (!resumes(request) || attention?.reason === 'effect-unknown'))
  );
}

/** Whether a claim that gets the key takes over from an attempt whose lease has run out. */
function isInterrupted(found: FoundKey | undefined): boolean {
  return found?.kind === 'unfinished' && found.claim.state === 'interrupted';
}

function textsOn(keys: string, steps: string) {
  return {
    expired: {
      id: 'lease_expired',
      text: `select execution_id from ${keys}
        where scope = $1::text and key = $2::text and expires_at <= clock_timestamp() and execution_id is not null`,
    },
    forget: forgetStatement(steps),
    claim: {
      id: 'lease_claim_distributed',
      // VALUES are computed where the setting is. claim_id becomes null, which its constraint refuses, where a request in
      // transaction mode holds the lock.
      text: `insert into ${keys} as k (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
          execution_id, attempt, lease_expires_at, created_at, expires_at)
        values ($1::text, $2::text, $3::bytea, $4::int2, $5::text, $6::text,
          case when ${HAS_LOCK} then $7::uuid end, $7::uuid, 1,
          statement_timestamp() + $8::float8 * interval '1 millisecond', statement_timestamp(),
          case when $10::bool then statement_timestamp() + ($8::float8 + $9::float8) * interval '1 millisecond'
            else 'infinity' end)
        ${TAKE_OVER}
            and (k.lease_expires_at is null
              or (k.lease_expires_at <= excluded.created_at and excluded.expires_at < 'infinity')))`,
    },
    lookUp: lookUpStatement(keys),
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
