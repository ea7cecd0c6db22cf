import type { PoolClient } from 'pg';
import type { IsolationLevel } from '../../protocol/options.js';
import type { IdempotentRequest } from '../../protocol/request.js';
import type { FinishedStep, StepOutcome } from '../../protocol/step.js';
import type { KeyIdentity } from '../../protocol/stored-key.js';
import type { BoundStatement, Statement, StatementResult } from '../statement-batch.js';
import { DURABLE_COMMIT, type FoundKey, READABLE_LITERALS } from './shared-statements.js';

export interface LeaseAttempt {
  request: LeaseRequest;
  /** Names it: its fencing token. */
  claimId: string;
}

type LeaseRequest = Pick<
  IdempotentRequest,
  'scope' | 'key' | 'fingerprint' | 'fingerprintVersion' | 'method' | 'path'
> & {
  options: Pick<IdempotentRequest['options'], 'leaseMs' | 'ttlMs' | 'onInterrupted'>;
};

export interface GrantedLease {
  kind: 'claimed';
  attempt: number;
  /** Where the lease of the attempt before had run out; one that has failed leaves none. */
  tookOver?: boolean;
  steps: FinishedStep[];
  /** By which the steps go, where they cannot go with the key. */
  executionId?: string;
  defaultIsolation: IsolationLevel;
}

export type LeaseResult = GrantedLease | { kind: 'in flight' } | FoundKey;

/** What a claim needs of its store. */
export interface ClaimTools {
  readonly keys: string;
  readonly steps: string;
  run(client: PoolClient, batch: BoundStatement[]): Promise<StatementResult[]>;
  lockOf(identity: KeyIdentity): string;
  see(searchPath: string): void;
}

/** What tells the statement behind it that the key is its own. */
const CLAIM_SETTING = 'nestjs_idempotency.claim_id';

/** Whether the claim has the key's lock, by {@link ENTER}. */
export const HAS_LOCK = `current_setting('${CLAIM_SETTING}', true) = $7::text`;

export const ENTER = {
  id: 'lease_enter',
  // A request in transaction mode has no row yet, only this lock. Where it is taken, the claim below finds its
  // setting empty and does nothing.
  text: `select set_config('${CLAIM_SETTING}',
      case when pg_try_advisory_xact_lock($1::int8) then $2::text else '' end, true), ${DURABLE_COMMIT},
      current_setting('search_path'), current_setting('default_transaction_isolation'), ${READABLE_LITERALS}`,
} as const;

/** How a key is claimed, which plain tables and those of Citus take in different ways. */
export abstract class LeaseClaim<Texts extends Record<string, Statement> = Record<string, Statement>> {
  readonly statements: readonly Statement[];

  protected constructor(
    protected readonly tools: ClaimTools,
    protected readonly texts: Texts,
  ) {
    this.statements = [ENTER, ...Object.values(texts)];
  }

  abstract claim(client: PoolClient, attempt: LeaseAttempt): Promise<LeaseResult>;
}

/** What a claim makes of the row that is there, up to the condition on the lease of the attempt before. */
export const TAKE_OVER = `on conflict (scope, key) do update set
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
            and k.fingerprint = excluded.fingerprint and k.fingerprint_version = excluded.fingerprint_version`;

/** What {@link ENTER} has read of the session, for `tools` to see. @returns the level that transactions begin with */
export function entered({ rows: [row] }: StatementResult, tools: ClaimTools): IsolationLevel {
  const [, , searchPath, isolation] = row!;
  tools.see(searchPath!);
  return isolation!.toUpperCase() as IsolationLevel;
}

export function leaseValues({ request, claimId }: LeaseAttempt): (string | Buffer)[] {
  const { leaseMs, ttlMs } = request.options;
  return [
    request.scope,
    request.key,
    request.fingerprint,
    String(request.fingerprintVersion),
    request.method,
    request.path,
    claimId,
    String(leaseMs),
    String(ttlMs),
    String(resumes(request)),
  ];
}

/** Whether the claim may take over from a holder whose lease has expired; otherwise such a key waits, without expiry. */
export function resumes({ options }: LeaseRequest): boolean {
  return options.onInterrupted === 'resume';
}

/** A row with a step behind its attempt: an attempt without finished steps has one row, with nulls for the step. */
export function finishedStepOf([, name, position, outcome]: (string | null)[]): FinishedStep[] {
  return typeof name === 'string'
    ? [
        {
          name,
          position: Number(position),
          outcome: JSON.parse(outcome!) as StepOutcome,
          bytes: Buffer.byteLength(outcome!),
        },
      ]
    : [];
}
