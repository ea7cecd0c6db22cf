import { randomUUID } from 'node:crypto';
import type { PoolClient } from 'pg';
import type { IsolationLevel } from '../../protocol/options.js';
import { ReadOnlyServerError, TransactionEndedByHandlerError } from './key-store.js';
import type { NewRecord } from '../../protocol/request.js';
import type { HeaderLine } from '../../protocol/response.js';
import { CLAIM_SETTING, distributedClaimOn, isInterrupted, isTaken } from './distributed-lease-claim.js';
import { lockNumber } from '../lock-number.js';
import { type Queryable, rowsOf } from '../queryable.js';
import {
  BEGIN,
  CHECK_CONSTRAINTS,
  COMMIT,
  DURABLE_COMMIT,
  type FoundKey,
  foundKeyOf,
  lookUpStatement,
  ROLLBACK,
  UNLOCK,
} from './shared-statements.js';
import type { SearchPathWatch } from '../search-path-watch.js';
import {
  firstSettings,
  noteSettings,
  putBackLimits,
  putBackSession,
  SETTINGS_STATEMENTS,
  settingsAtBegin,
  TRANSACTION_MARKER,
} from '../session-settings.js';
import { nullColumnOf, postgresErrorOf, SQLSTATE } from '../sqlstate.js';
import { type BoundStatement, failedStatement, type Statement, type StatementResult } from '../statement-batch.js';
import { StatementRunner } from '../statement-runner.js';
import type { Attention, KeyIdentity } from '../../protocol/stored-key.js';
import { KEYS_TABLE, STEPS_TABLE, tableName } from '../table-name.js';

/** What a later attempt gets of a step without running it; without members it returned `undefined`. */
export interface StepOutcome {
  returned?: unknown;
  threw?: { status: number; response: unknown };
  /** Beside `threw`: the error was not stored for what it is, but because the handler went on with it. */
  failure?: StepFailure;
  /** Not of a step at all: the provider keeps an error under this many keys of the step. */
  keysUsedUp?: { step: string; count: number };
  /** Beside `threw`: the step has had its effect, or may have, and this is why nothing is known of it. */
  lost?: string;
  /** All of it, where it is encrypted; beside `keysUsedUp` and `lost`, which statements go by. */
  sealed?: readonly [keyId: string, bytes: string];
}

/** What is kept of an error; its class is not. */
export interface StepFailure {
  name: string;
  message: string;
  /** Its own properties that are numbers, booleans or short texts, such as `code`. */
  properties: Record<string, string | number | boolean>;
  isHttp: boolean;
}

/** A finished step. */
export interface FinishedStep {
  name: string;
  /** One more than the steps that had ended in its attempt when it began. */
  position: number;
  outcome: StepOutcome;
  /** Length of the outcome as JSON. */
  bytes: number;
}

/** Whose statement it is: one attempt, by its fencing token `claimId`. */
export interface Holder extends KeyIdentity {
  claimId: string;
}

export interface LeaseRequest extends Holder {
  fingerprint: Buffer;
  fingerprintVersion: number;
  method: string;
  path: string;
  leaseMs: number;
  ttlMs: number;
  /** Whether the claim may take over from a holder whose lease has expired; otherwise such a key waits, without expiry. */
  resumes: boolean;
}

export interface NewStep extends Holder {
  name: string;
  position: number;
  attempt: number;
  /** JSON of a {@link StepOutcome}. */
  outcome: string;
}

export type LeaseResult =
  /** `tookOver` where the lease of the attempt before had run out; one that has failed leaves none. */
  | { kind: 'claimed'; attempt: number; tookOver?: boolean; steps: FinishedStep[]; defaultIsolation: IsolationLevel }
  | { kind: 'in flight' }
  | FoundKey;

/** The holder's fencing token is no longer the key's: another attempt has taken over, or the key has its response. */
export class FencedOffError extends Error {}

/** A claim by lease met the lock of a request in transaction mode, where that is told by an error. */
export class KeyInFlightError extends Error {}

/** Every statement of lease mode, one method each. Each is one round trip, and all but `begin` end what they begin. */
export class LeaseStore {
  private readonly keys: string;
  private readonly steps: string;
  private readonly statements: ReturnType<typeof statementsOn>;
  private readonly inTwo: ReturnType<typeof distributedClaimOn>;
  private readonly prepared: readonly Statement[];

  constructor(
    private readonly schema?: string,
    private readonly runner = new StatementRunner(),
    private readonly searchPaths?: SearchPathWatch,
    /** Whether the tables are those of Citus: see {@link KeyTables.isDistributed}. */
    private readonly isDistributed = false,
  ) {
    this.keys = tableName(KEYS_TABLE, schema);
    this.steps = tableName(STEPS_TABLE, schema);
    this.statements = statementsOn(this.keys, this.steps);
    this.inTwo = distributedClaimOn(this.keys, this.steps);
    // What a connection learns it learns with its first batch: nothing that it has no use for.
    const { sameTransaction, claim, progress, ...common } = this.statements;
    const own = isDistributed ? { sameTransaction, ...this.inTwo } : { claim, progress };
    this.prepared = [...Object.values(BEGIN), ...Object.values(common), ...Object.values(own)];
  }

  /**
   * Claims the key under a lease and commits that, unless it is taken. Safe to repeat with the same `claimId`: what an
   * earlier try whose answer was lost has claimed is found again.
   */
  async claim(client: PoolClient, request: LeaseRequest): Promise<LeaseResult> {
    return this.isDistributed ? this.claimInTwo(client, request) : this.claimAtOnce(client, request);
  }

  private async claimAtOnce(client: PoolClient, request: LeaseRequest): Promise<LeaseResult> {
    const { scope, key, claimId } = request;
    const { enter, claim, lookUp, progress, commit } = this.statements;
    const results = await this.run(client, [
      { statement: BEGIN['READ COMMITTED'] },
      { statement: enter, values: [lockNumber([this.schema ?? '', scope, key]), claimId] },
      { statement: claim, values: leaseValues(request) },
      { statement: lookUp, values: [scope, key] },
      { statement: progress, values: [scope, key, claimId] },
      { statement: commit },
    ]);
    const [, , searchPath, isolation] = results[1]!.rows[0]!;
    this.searchPaths?.see(searchPath!);
    const found = results[3]!.rows[0];
    if (found === undefined) {
      return { kind: 'in flight' }; // a request in transaction mode holds the lock
    }
    const [attempt] = results[4]!.rows[0] ?? [];
    return attempt === undefined || attempt === null
      ? foundKeyOf(found)
      : {
          kind: 'claimed',
          attempt: Number(attempt),
          tookOver: attempt !== '1' && results[2]!.rows[0]?.[0] === 't',
          steps: results[4]!.rows.flatMap(finishedStepOf),
          defaultIsolation: isolation!.toUpperCase() as IsolationLevel,
        };
  }

  /**
   * The same on tables of Citus: a look first, so that a key that is taken is not touched, then a claim that decides by
   * itself. The steps of an attempt before are looked up behind it: by then nobody else may add one.
   */
  private async claimInTwo(client: PoolClient, request: LeaseRequest): Promise<LeaseResult> {
    const { scope, key, claimId } = request;
    const taken = await this.lookUp(client, request);
    if (taken !== undefined && isTaken(taken, request)) {
      return taken;
    }
    const { enter, lookUp, commit } = this.statements;
    const { clear, claim, held } = this.inTwo;
    const results = await this.run(client, [
      { statement: BEGIN['READ COMMITTED'] },
      { statement: enter, values: [lockNumber([this.schema ?? '', scope, key]), claimId] },
      { statement: clear, values: [scope, key] },
      { statement: claim, values: leaseValues(request) },
      { statement: lookUp, values: [scope, key] },
      { statement: held, values: [scope, key, claimId] },
      { statement: commit },
    ]).catch((error: unknown) => {
      throw failedStatement(error) === claim && nullColumnOf(error, ['claim_id']) !== undefined
        ? new KeyInFlightError('a request in transaction mode holds the lock', { cause: error })
        : error;
    });
    const [, , searchPath, isolation] = results[1]!.rows[0]!;
    this.searchPaths?.see(searchPath!);
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
      defaultIsolation: isolation!.toUpperCase() as IsolationLevel,
    };
  }

  private async finishedSteps(client: PoolClient, attempt: string, executionId: string): Promise<FinishedStep[]> {
    const [result] = await this.run(client, [{ statement: this.inTwo.finished, values: [executionId] }]);
    return result!.rows.flatMap(([name, position, outcome]) => finishedStepOf([attempt, name!, position!, outcome!]));
  }

  async lookUp(client: PoolClient, { scope, key }: KeyIdentity): Promise<FoundKey | undefined> {
    const [result] = await this.run(client, [{ statement: this.statements.lookUp, values: [scope, key] }]);
    const row = result!.rows[0];
    return row === undefined ? undefined : foundKeyOf(row);
  }

  /**
   * Makes the lease last `leaseMs` from now; false when it is no longer the holder's. Rejects when its row is locked for
   * longer than `lockTimeoutMs`. Without BEGIN, so that the session is left as it was: up to the one sync it is a
   * transaction all the same (PostgreSQL manual, 54.2.3).
   */
  async renew(
    client: PoolClient,
    holder: Holder,
    leaseMs: number,
    ttlMs: number,
    lockTimeoutMs: number,
  ): Promise<boolean> {
    const results = await this.run(client, [
      { statement: this.statements.renewal, values: [String(lockTimeoutMs)] },
      { statement: this.statements.renew, values: renewalValues(holder, { leaseMs, ttlMs }) },
    ]);
    return results[1]!.tag === 'UPDATE 1';
  }

  /** @param attention what an operator has to know of it, beside @throws FencedOffError */
  async addStep(client: PoolClient, step: NewStep, attention?: Attention): Promise<void> {
    const { scope, key, claimId } = step;
    await this.fenced(client, [
      { statement: BEGIN['READ COMMITTED'] },
      { statement: this.statements.durable },
      { statement: this.statements.step, values: stepValues(step, null) },
      ...(attention === undefined
        ? []
        : [{ statement: this.statements.attend, values: [scope, key, claimId, JSON.stringify(attention)] }]),
      { statement: this.statements.commit },
    ]);
  }

  /**
   * Begins a transaction for a step's writes. A snapshot that lasts as long as the transaction could not see a takeover
   * at its end: under such a level the key's row is locked from the start, and renewals have to wait.
   *
   * @param hasKey whether there is a row at all
   * @throws FencedOffError, ReadOnlyServerError
   */
  async begin(
    client: PoolClient,
    { scope, key, claimId }: Holder,
    isolation: IsolationLevel | undefined,
    transactionTimeoutMs: number,
    hasKey = true,
  ): Promise<void> {
    const { limits, hold } = this.statements;
    const holdsFromStart = hasKey && isOneSnapshot(isolation);
    const results = await this.run(client, [
      { statement: BEGIN[isolation ?? 'default'] },
      { statement: limits, values: [String(transactionTimeoutMs)] },
      ...(holdsFromStart ? [{ statement: hold, values: [scope, key, claimId] }] : []),
    ]);
    const { readOnly, searchPath } = noteSettings(client, claimId, results[1]!.rows[0]!);
    if (readOnly) {
      throw new ReadOnlyServerError();
    }
    this.searchPaths?.see(searchPath);
    if (holdsFromStart && results[2]!.rows.length === 0) {
      throw new FencedOffError('the lease is held by another attempt');
    }
  }

  /**
   * Checks deferred constraints, adds the step and commits both it and the writes before it. What these have set in the
   * session does not reach the step.
   *
   * @param renewal makes the lease last from now, where nobody could renew it since the transaction began
   * @throws FencedOffError, TransactionEndedByHandlerError
   */
  async commitStep(client: PoolClient, step: NewStep, renewal?: { leaseMs: number; ttlMs: number }): Promise<void> {
    const { marker } = settingsAtBegin(client, step.claimId);
    const { sameTransaction, step: add, renew } = this.statements;
    await this.commitWith(client, step.claimId, [
      ...(this.isDistributed ? [{ statement: sameTransaction, values: [marker] }] : []),
      { statement: add, values: stepValues(step, this.isDistributed ? null : marker) },
      ...(renewal === undefined ? [] : [{ statement: renew, values: renewalValues(step, renewal) }]),
    ]);
  }

  /** The same for a request without a key: there is no row for it to be remembered by. */
  async commitUnrecorded(client: PoolClient, { claimId }: Holder): Promise<void> {
    await this.commitWith(client, claimId, []);
  }

  private async commitWith(client: PoolClient, claimId: string, memory: BoundStatement[]): Promise<void> {
    const settings = settingsAtBegin(client, claimId);
    const results = await this.fenced(client, [
      putBackLimits(settings),
      { statement: this.statements.checkConstraints },
      putBackSession(settings),
      ...memory,
      { statement: this.statements.commit },
    ]);
    const tag = results.at(-1)?.tag;
    if (tag !== 'COMMIT') {
      throw new Error(`COMMIT was answered with ${tag}: nothing was committed`);
    }
  }

  async rollback(client: PoolClient): Promise<void> {
    const { rollback, unlock } = this.statements;
    await this.run(client, [{ statement: rollback }, { statement: unlock }]);
  }

  /** Records the response, for the holder alone; the steps have done their duty and go. False when fenced off. */
  async record(client: PoolClient, record: NewRecord): Promise<boolean> {
    const results = await this.run(client, [
      { statement: BEGIN['READ COMMITTED'] },
      { statement: this.statements.durable },
      { statement: this.statements.record, values: recordValues(record) },
      { statement: this.statements.commit },
    ]);
    return results[2]!.rows[0]![0] === '1';
  }

  /**
   * Ends the attempt without a response: the next claim may go on from its steps, but for the `withdrawn`, for `ttlMs` from
   * now.
   */
  async release(
    client: PoolClient,
    { scope, key, claimId }: Holder,
    ttlMs: number,
    { attention, withdrawn = [] }: { attention?: Attention | undefined; withdrawn?: readonly string[] } = {},
  ): Promise<void> {
    const values = [
      scope,
      key,
      claimId,
      String(ttlMs),
      attention === undefined ? null : JSON.stringify(attention),
      JSON.stringify(withdrawn),
    ];
    await this.run(client, [{ statement: this.statements.release, values }]);
  }

  /** Ends the attempt where no other may follow before an operator has spoken. */
  async interrupt(client: PoolClient, { scope, key, claimId }: Holder): Promise<void> {
    await this.run(client, [{ statement: this.statements.interrupt, values: [scope, key, claimId] }]);
  }

  /** Ends the attempt as if it had never been. */
  async withdraw(client: PoolClient, { scope, key, claimId }: Holder): Promise<void> {
    await this.run(client, [{ statement: this.statements.withdraw, values: [scope, key, claimId] }]);
  }

  /** An operator's answer to a key that nobody holds; false when there is no such key, or somebody holds it. */
  async resolve(
    db: Queryable,
    { scope, key, claimId }: Holder,
    response: { status: number; headers: HeaderLine[]; body: Buffer },
    ttlMs: number,
  ): Promise<boolean> {
    const rows = await rowsOf<{ count: number }>(
      db,
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
  async releaseAbandoned(db: Queryable, { scope, key, claimId }: Holder, ttlMs: number): Promise<boolean> {
    const rows = await rowsOf<{ count: number }>(
      db,
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

  /**
   * Deletes steps whose operation is over although they did not go with their key: instances of a version before leave
   * them, and whoever deletes keys by hand. Looks at a sample of all steps, so that it costs the same however many live.
   */
  async purgeLeftSteps(db: Queryable): Promise<void> {
    const sample = (from: string): string => `(
      select execution_id, scope, key from ${this.steps} where execution_id ${from} $1::uuid
      order by execution_id limit ${LEFT_STEPS_SAMPLE})`;
    await rowsOf(
      db,
      `with seen as materialized (${sample('>=')} union ${sample('<')}),
       alive as materialized (
         select k.execution_id from ${this.keys} k
         join seen on k.scope = seen.scope and k.key = seen.key and k.execution_id = seen.execution_id),
       gone as (
         delete from ${this.steps} where execution_id = any (
           array(select execution_id from seen where execution_id not in (select execution_id from alive))))
       select 1`,
      [randomUUID()],
    );
  }

  private run(client: PoolClient, batch: BoundStatement[]): Promise<StatementResult[]> {
    return this.runner.run(client, batch, this.prepared);
  }

  private async fenced(client: PoolClient, batch: BoundStatement[]): Promise<StatementResult[]> {
    try {
      return await this.run(client, batch);
    } catch (error) {
      const { step, sameTransaction } = this.statements;
      const failed = failedStatement(error);
      const cause = postgresErrorOf(error);
      const column = failed === step ? nullColumnOf(error, ['execution_id', 'created_at']) : undefined;
      if (column === 'execution_id' || (failed === step && cause?.code === SQLSTATE.nullValueNotAllowed)) {
        throw new FencedOffError('the lease is held by another attempt', { cause });
      }
      if (column === 'created_at' || (failed === sameTransaction && cause?.code === SQLSTATE.divisionByZero)) {
        throw new TransactionEndedByHandlerError('the transaction of the step is over', { cause });
      }
      throw error;
    }
  }
}

/** Whether a transaction of this level sees to its end what was committed at its start, and nothing else. */
export function isOneSnapshot(isolation: IsolationLevel | undefined): boolean {
  return isolation === 'REPEATABLE READ' || isolation === 'SERIALIZABLE';
}

/** Steps are few: an operation has them only until it ends. */
const LEFT_STEPS_SAMPLE = 100;

/** Rows that are still the holder's, and wait for a response. */
const HELD = 'scope = $1::text and key = $2::text and claim_id = $3::uuid and response_status is null';

/** The place of a step that an operator lets code come by wherever it does, or not at all. */
export const ANY_POSITION = 2_147_483_647;

/** Rows without a response that nobody holds any more. */
const ABANDONED = `scope = $1::text and key = $2::text and response_status is null
           and expires_at > statement_timestamp() and (lease_expires_at is null or lease_expires_at <= statement_timestamp())`;

function statementsOn(keys: string, steps: string) {
  return {
    enter: {
      id: 'lease_enter',
      // A request in transaction mode has no row yet, only this lock. Where it is taken, the claim below finds its
      // setting empty and does nothing.
      text: `select set_config('${CLAIM_SETTING}',
          case when pg_try_advisory_xact_lock($1::int8) then $2::text else '' end, true), ${DURABLE_COMMIT},
          current_setting('search_path'), current_setting('default_transaction_isolation')`,
    },
    claim: {
      id: 'lease_claim',
      // One reading of the clock, the proposed row's, decides everything. The row of a key that is taken is not
      // touched: that would lock it and write WAL for each duplicate. One that has expired is locked before its steps go:
      // its holder may yet renew it. What reads from `gone` has it come first.
      text: `with now as materialized (select clock_timestamp() as at),
        stale as (
          select k.execution_id from ${keys} k, now
          where k.scope = $1::text and k.key = $2::text and k.expires_at <= now.at and k.execution_id is not null
            and current_setting('${CLAIM_SETTING}', true) = $7::text
          for update of k),
        gone as (delete from ${steps} s using stale where s.execution_id = stale.execution_id returning 1)
        insert into ${keys} as k (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
          execution_id, attempt, lease_expires_at, created_at, expires_at)
        select $1::text, $2::text, $3::bytea, $4::int2, $5::text, $6::text, $7::uuid, $7::uuid, 1,
          at + $8::float8 * interval '1 millisecond', at,
          case when $10::bool then at + ($8::float8 + $9::float8) * interval '1 millisecond' else 'infinity' end
        from now
        where current_setting('${CLAIM_SETTING}', true) = $7::text and (select count(*) from gone) >= 0 and not exists (
          select 1 from ${keys} taken
          where taken.scope = $1::text and taken.key = $2::text and taken.expires_at > at
            and (taken.response_status is not null or taken.lease_expires_at > at
              or (taken.lease_expires_at is not null and not $10::bool)
              or taken.attention ->> 'reason' = 'effect-unknown'))
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
    renew: {
      id: 'lease_renew',
      text: `update ${keys} set lease_expires_at = statement_timestamp() + $4::float8 * interval '1 millisecond',
          expires_at = greatest(statement_timestamp() + ($4::float8 + $5::float8) * interval '1 millisecond',
            case when expires_at = 'infinity' then expires_at end)
        where ${HELD} and lease_expires_at is not null`, // one that was given back stays so
    },
    renewal: { id: 'lease_renewal', text: `select set_config('lock_timeout', $1::text, true), ${DURABLE_COMMIT}` },
    durable: { id: 'lease_durable', text: `select ${DURABLE_COMMIT}` },
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
      // fenced off finds no row, so that execution_id is null, and created_at is null when the transaction is not the one
      // that was begun: both are refused, and a COMMIT behind them is not executed.
      text: `with held as materialized (select execution_id from ${keys} where ${HELD} for share)
        insert into ${steps} (execution_id, name, position, attempt, outcome, scope, key, created_at)
        select (select execution_id from held), $4::text, $5::int4, $6::int4, $7::json, $1::text, $2::text,
          case when $8::text is null or ${TRANSACTION_MARKER} = $8::text then clock_timestamp() end
        on conflict (execution_id, name) do nothing`,
    },
    record: {
      id: 'lease_record',
      text: `with recorded as (
          update ${keys} set lease_expires_at = null, attention = null, response_status = $4::int2, response_headers = $5::jsonb,
            response_body = $6::bytea, response_bytes = $7::int8, trace_context = $9::text,
            expires_at = statement_timestamp() + $8::float8 * interval '1 millisecond'
          where ${HELD}
          returning execution_id),
        gone as (delete from ${steps} s using recorded r where s.execution_id = r.execution_id)
        select count(*) from recorded`,
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

function leaseValues(request: LeaseRequest): (string | Buffer)[] {
  return [
    request.scope,
    request.key,
    request.fingerprint,
    String(request.fingerprintVersion),
    request.method,
    request.path,
    request.claimId,
    String(request.leaseMs),
    String(request.ttlMs),
    String(request.resumes),
  ];
}

function renewalValues(
  { scope, key, claimId }: Holder,
  { leaseMs, ttlMs }: { leaseMs: number; ttlMs: number },
): string[] {
  return [scope, key, claimId, String(leaseMs), String(ttlMs)];
}

/** @param marker of the transaction that the step's writes are in, or null where it has none */
function stepValues(
  { scope, key, claimId, name, position, attempt, outcome }: NewStep,
  marker: string | null,
): (string | null)[] {
  return [scope, key, claimId, name, String(position), String(attempt), outcome, marker];
}

function recordValues({ request, response }: NewRecord): (string | Buffer | null)[] {
  return [
    request.scope,
    request.key,
    request.claimId,
    String(response.status),
    JSON.stringify(response.headers),
    response.body,
    String(response.bodyBytes),
    String(request.ttlMs),
    request.traceContext ?? null,
  ];
}

/** A row of `progress`: an attempt without finished steps has one row, with nulls for the step. */
function finishedStepOf([, name, position, outcome]: (string | null)[]): FinishedStep[] {
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
