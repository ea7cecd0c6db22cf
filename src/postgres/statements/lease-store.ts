import type { PoolClient } from 'pg';
import type { IsolationLevel } from '../../protocol/options.js';
import type { NewRecord } from '../../protocol/request.js';
import type { Attention, KeyIdentity } from '../../protocol/stored-key.js';
import { noteSettings, putBackLimits, putBackSession, settingsAtBegin } from '../session-settings.js';
import { nullColumnOf, postgresErrorOf, SQLSTATE } from '../sqlstate.js';
import {
  type BoundStatement,
  failedStatement,
  runBatch,
  type Statement,
  type StatementResult,
} from '../statement-batch.js';
import { DistributedLeaseClaim } from './distributed-lease-claim.js';
import type { ClaimTools, LeaseAttempt, LeaseClaim, LeaseResult } from './lease-claim.js';
import {
  distributedEndingsOn,
  type Holder,
  leaseStatementsOn,
  type NewStep,
  recordValues,
  renewalValues,
  stepValues,
} from './lease-statements.js';
import { PlainLeaseClaim } from './plain-lease-claim.js';
import { BEGIN, type FoundKey, foundKeyOf } from './shared-statements.js';
import { FencedOffError, ReadOnlyServerError, TransactionEndedByHandlerError } from './store-errors.js';
import { TableStore } from './table-store.js';

/**
 * Every statement of lease mode, one method each. Each is one round trip, and all but `begin` end what they begin.
 *
 * It is long because it has that many statements.
 */
export class LeaseStore extends TableStore {
  private readonly statements = leaseStatementsOn(this.keys, this.steps);
  /** Where they are other ones than those of plain tables. */
  private readonly endings = this.isDistributed ? distributedEndingsOn(this.keys, this.steps) : undefined;
  private readonly claiming: LeaseClaim = this.isDistributed
    ? new DistributedLeaseClaim(this.claimTools)
    : new PlainLeaseClaim(this.claimTools);
  protected readonly all = this.statementsInUse();

  /**
   * Claims the key under a lease and commits that, unless it is taken. Safe to repeat with the same `claimId`: what an
   * earlier try whose answer was lost has claimed is found again.
   */
  claim(client: PoolClient, attempt: LeaseAttempt): Promise<LeaseResult> {
    return this.claiming.claim(client, attempt);
  }

  async lookUp(client: PoolClient, { scope, key }: KeyIdentity): Promise<FoundKey | undefined> {
    const [result] = await runBatch(client, this.prepared, [
      { statement: this.statements.lookUp, values: [scope, key] },
    ]);
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
    const results = await runBatch(client, this.prepared, [
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
    const results = await runBatch(client, this.prepared, [
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
    await runBatch(client, this.prepared, [{ statement: rollback }, { statement: unlock }]);
  }

  /**
   * Records the response, for the holder alone; the steps have done their duty and go. Answers until when it is kept, and
   * nothing when fenced off.
   *
   * @param executionId as the claim has told it
   * @throws FencedOffError where Citus has the tables
   */
  async record(client: PoolClient, record: NewRecord, executionId?: string): Promise<Date | undefined> {
    if (this.endings !== undefined) {
      const [, , recorded] = await this.fenced(client, [
        { statement: BEGIN['READ COMMITTED'] },
        { statement: this.statements.durable },
        { statement: this.endings.record, values: recordValues(record) },
        { statement: this.endings.forget, values: [executionId!] },
        { statement: this.statements.commit },
      ]);
      return new Date(Number(recorded!.rows[0]![1]));
    }
    const results = await runBatch(client, this.prepared, [
      { statement: BEGIN['READ COMMITTED'] },
      { statement: this.statements.durable },
      { statement: this.statements.record, values: recordValues(record) },
      { statement: this.statements.commit },
    ]);
    const [row] = results[2]!.rows;
    return row === undefined ? undefined : new Date(Number(row[0]));
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
    // Without steps to withdraw they are none of its business.
    const alone = withdrawn.length === 0 ? this.endings?.release : undefined;
    await runBatch(client, this.prepared, [
      { statement: this.statements.durable },
      alone === undefined
        ? { statement: this.statements.release, values }
        : { statement: alone, values: values.slice(0, -1) },
    ]);
  }

  /** Ends the attempt where no other may follow before an operator has spoken. */
  async interrupt(client: PoolClient, { scope, key, claimId }: Holder): Promise<void> {
    await runBatch(client, this.prepared, [
      { statement: this.statements.durable },
      { statement: this.statements.interrupt, values: [scope, key, claimId] },
    ]);
  }

  /** Ends the attempt as if it had never been. */
  async withdraw(client: PoolClient, { scope, key, claimId }: Holder): Promise<void> {
    await runBatch(client, this.prepared, [{ statement: this.statements.withdraw, values: [scope, key, claimId] }]);
  }

  private get claimTools(): ClaimTools {
    return {
      keys: this.keys,
      steps: this.steps,
      run: (client, batch) => runBatch(client, this.prepared, batch),
      lockOf: (identity) => this.lockOf(identity),
      see: (searchPath) => this.searchPaths?.see(searchPath),
    };
  }

  /** What a connection learns it learns with its first batch: nothing that it has no use for. */
  private statementsInUse(): Statement[] {
    const { sameTransaction, record, ...common } = this.statements;
    return [
      ...Object.values(BEGIN),
      ...Object.values(common),
      ...(this.endings === undefined ? [record] : [sameTransaction, ...Object.values(this.endings)]),
      ...this.claiming.statements,
    ];
  }

  private async fenced(client: PoolClient, batch: BoundStatement[]): Promise<StatementResult[]> {
    try {
      return await runBatch(client, this.prepared, batch);
    } catch (error) {
      const cause = postgresErrorOf(error);
      const failed = failedStatement(error);
      if (this.tellsFence(failed, error)) {
        throw new FencedOffError('the lease is held by another attempt', { cause });
      }
      if (this.tellsAnotherTransaction(failed, error)) {
        throw new TransactionEndedByHandlerError('the transaction of the step is over', { cause });
      }
      throw error;
    }
  }

  private tellsFence(failed: Statement | undefined, error: unknown): boolean {
    const code = postgresErrorOf(error)?.code;
    return failed === this.statements.step
      ? nullColumnOf(error, ['attempt']) !== undefined
      : failed !== undefined && failed === this.endings?.record && code === SQLSTATE.divisionByZero;
  }

  private tellsAnotherTransaction(failed: Statement | undefined, error: unknown): boolean {
    return failed === this.statements.step
      ? nullColumnOf(error, ['created_at']) !== undefined
      : failed === this.statements.sameTransaction && postgresErrorOf(error)?.code === SQLSTATE.divisionByZero;
  }
}

/** Whether a transaction of this level sees to its end what was committed at its start, and nothing else. */
export function isOneSnapshot(isolation: IsolationLevel | undefined): boolean {
  return isolation === 'REPEATABLE READ' || isolation === 'SERIALIZABLE';
}
