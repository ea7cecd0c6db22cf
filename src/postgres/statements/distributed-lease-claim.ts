import type { PoolClient } from 'pg';
import type { FinishedStep } from '../../protocol/step.js';
import { nullColumnOf } from '../sqlstate.js';
import { failedStatement, type Statement } from '../statement-batch.js';
import {
  type ClaimTools,
  ENTER,
  entered,
  finishedStepOf,
  HAS_LOCK,
  type LeaseClaim,
  type LeaseRequest,
  type LeaseResult,
  leaseValues,
  TAKE_OVER,
} from './lease-claim.js';
import { BEGIN, COMMIT, type FoundKey, foundKeyOf, lookUpStatement } from './shared-statements.js';
import { KeyInFlightError } from './store-errors.js';

/**
 * The claim of lease mode on distributed tables of Citus, which cannot join keys and steps, and where an INSERT ... SELECT
 * that asks for a setting inserts nothing: a worker has no such setting.
 */
export class DistributedLeaseClaim implements LeaseClaim {
  private readonly texts: ReturnType<typeof textsOn>;
  readonly statements: readonly Statement[];

  constructor(private readonly tools: ClaimTools) {
    this.texts = textsOn(tools.keys, tools.steps);
    this.statements = [ENTER, ...Object.values(this.texts)];
  }

  /**
   * A look first, so that a key that is taken is not touched, then a claim that decides by itself. The steps of an
   * attempt before are looked up behind it: by then nobody else may add one.
   */
  async claim(client: PoolClient, request: LeaseRequest): Promise<LeaseResult> {
    const { scope, key, claimId } = request;
    const taken = await this.tools.lookUp(client, request);
    if (taken !== undefined && isTaken(taken, request)) {
      return taken;
    }
    const { clear, claim, lookUp, held } = this.texts;
    const results = await this.tools
      .run(client, [
        { statement: BEGIN['READ COMMITTED'] },
        { statement: ENTER, values: [this.tools.lockOf(request), claimId] },
        { statement: clear, values: [scope, key] },
        { statement: claim, values: leaseValues(request) },
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
    const [attempt, executionId] = results[5]!.rows[0] ?? [];
    if (attempt === undefined || attempt === null) {
      const found = results[4]!.rows[0];
      return found === undefined ? { kind: 'in flight' } : foundKeyOf(found);
    }
    return {
      kind: 'claimed',
      attempt: Number(attempt),
      tookOver: attempt !== '1' && isInterrupted(taken),
      steps: attempt === '1' ? [] : await this.finishedSteps(client, attempt, executionId!),
      defaultIsolation,
    };
  }

  private async finishedSteps(client: PoolClient, attempt: string, executionId: string): Promise<FinishedStep[]> {
    const [result] = await this.tools.run(client, [{ statement: this.texts.finished, values: [executionId] }]);
    return result!.rows.flatMap(([name, position, outcome]) => finishedStepOf([attempt, name!, position!, outcome!]));
  }
}

/** Whether a claim would not get the key, as a look tells; of what it would get, the claim itself decides. */
function isTaken(found: FoundKey, { resumes }: { resumes: boolean }): boolean {
  if (found.kind === 'completed') {
    return true;
  }
  const { state, attention } = found.claim;
  return state === 'running' || (state === 'interrupted' && (!resumes || attention?.reason === 'effect-unknown'));
}

/** Whether a claim that gets the key takes over from an attempt whose lease has run out. */
function isInterrupted(found: FoundKey | undefined): boolean {
  return found?.kind === 'unfinished' && found.claim.state === 'interrupted';
}

function textsOn(keys: string, steps: string) {
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
