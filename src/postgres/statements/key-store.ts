import type { PoolClient } from 'pg';
import type { IsolationLevel } from '../../protocol/options.js';
import type { NewRecord } from '../../protocol/request.js';
import type { KeyIdentity } from '../../protocol/stored-key.js';
import { noteSettings, putBackLimits, putBackSession, settingsAtBegin } from '../session-settings.js';
import { nullColumnOf, postgresErrorOf, refusesRow } from '../sqlstate.js';
import { failedStatement, runBatch, type Statement, type StatementResult } from '../statement-batch.js';
import { insertValues, keyStatementsOn } from './key-statements.js';
import { type FoundKey, foundKeyOf } from './shared-statements.js';
import {
  KeyAlreadyRecordedError,
  ReadOnlyServerError,
  RecordRefusedError,
  TransactionEndedByHandlerError,
} from './store-errors.js';
import { TableStore } from './table-store.js';

export interface ClaimAttempt {
  request: KeyIdentity;
  /** Names it: at the record the transaction must still be its own. */
  claimId: string;
  /** After this long PostgreSQL itself ends a transaction whose application is frozen. */
  transactionTimeoutMs: number;
  isolation: IsolationLevel | undefined;
  /** Sets a savepoint behind the claim, for a route that stores errors without the handler's writes. */
  savepoint: boolean;
}

export type ClaimResult = { kind: 'claimed' } | { kind: 'in flight' } | FoundKey;
export type PeekResult = { kind: 'free' } | { kind: 'in flight' } | FoundKey;

/** Every statement of transaction mode, one method each. */
export class KeyStore extends TableStore {
  private readonly statements = keyStatementsOn(this.keys);
  protected readonly all = allOf(this.statements);

  /**
   * Begins a transaction and claims the key in it: one round trip. Unless the answer is `claimed`, the caller ends
   * the transaction by {@link rollback}.
   *
   * The look-up is a statement of its own behind the lock: under READ COMMITTED it then sees what the last holder
   * committed. In one statement with the lock it would not.
   *
   * @throws ReadOnlyServerError, or the driver's error; the client must be destroyed then
   */
  async claim(client: PoolClient, attempt: ClaimAttempt): Promise<ClaimResult> {
    const { begin, claim, lookUp, savepoint } = this.statements;
    const { request, claimId } = attempt;
    const results = await runBatch(client, this.prepared, [
      { statement: begin[attempt.isolation ?? 'default'] },
      { statement: claim, values: [this.lockOf(request), String(attempt.transactionTimeoutMs)] },
      { statement: lookUp, values: [request.scope, request.key] },
      ...(attempt.savepoint ? [{ statement: savepoint }] : []),
    ]);
    const found = foundIn(results[2]!);
    if (found !== undefined) {
      return found;
    }
    const [locked, ...row] = results[1]!.rows[0]!;
    const { readOnly, searchPath } = noteSettings(client, claimId, row);
    if (readOnly) {
      throw new ReadOnlyServerError();
    }
    this.searchPaths?.see(searchPath);
    return { kind: locked === 't' ? 'claimed' : 'in flight' };
  }

  /**
   * What a claim would meet, without claiming: one round trip that leaves nothing to end. Only a claim can tell for sure
   * that a key is free.
   */
  async peek(client: PoolClient, identity: KeyIdentity): Promise<PeekResult> {
    const { begin, tryLock, lookUp, rollback } = this.statements;
    // Rolled back, so that under SERIALIZABLE the holder is never cancelled for what was read here.
    const [, lock, look] = await runBatch(client, this.prepared, [
      { statement: begin['READ COMMITTED'] },
      { statement: tryLock, values: [this.lockOf(identity)] },
      { statement: lookUp, values: [identity.scope, identity.key] },
      { statement: rollback },
    ]);
    const [locked] = lock!.rows[0]!;
    return foundIn(look!) ?? (locked === 't' ? { kind: 'free' } : { kind: 'in flight' });
  }

  /** What the key holds, likewise. */
  async lookUp(client: PoolClient, { scope, key }: KeyIdentity): Promise<FoundKey | undefined> {
    const [result] = await runBatch(client, this.prepared, [
      { statement: this.statements.lookUp, values: [scope, key] },
    ]);
    return foundIn(result!);
  }

  /**
   * Checks deferred constraints, records the response and commits, in one round trip. What the handler has set in its
   * session does not reach the record.
   *
   * @param undoWrites goes back to the savepoint of the claim first, so that only the response is committed
   * @returns until when it is kept
   * @throws KeyAlreadyRecordedError, TransactionEndedByHandlerError, RecordRefusedError, or the driver's error; the client
   * must be destroyed then, and unless `isDefiniteFailure` says so the outcome is open
   */
  async record(client: PoolClient, record: NewRecord, undoWrites: boolean): Promise<Date> {
    const { undo, unlock, checkConstraints, insert, commit } = this.statements;
    const settings = settingsAtBegin(client, record.claimId);
    let results: StatementResult[];
    try {
      results = await runBatch(client, this.prepared, [
        ...(undoWrites
          ? [{ statement: undo }, { statement: unlock }]
          : [putBackLimits(settings), { statement: checkConstraints }]),
        putBackSession(settings),
        { statement: insert, values: insertValues(record, settings.marker) },
        { statement: commit },
      ]);
    } catch (error) {
      this.preparation.shouldRunAgain(error); // where the handler itself has deallocated them, its next attempt must not fail again
      throw this.explain(error);
    }
    const tag = results.at(-1)?.tag;
    if (tag !== 'COMMIT') {
      // COMMIT of a failed transaction succeeds with the tag ROLLBACK (PostgreSQL manual, COMMIT).
      throw new Error(`COMMIT was answered with ${tag}: nothing was committed`);
    }
    return new Date(Number(results.at(-2)!.rows[0]![0]));
  }

  /** Undoes what a handler did, if one ran, and frees what it still holds of the session. */
  async rollback(client: PoolClient): Promise<void> {
    const { rollback, unlock } = this.statements;
    await runBatch(client, this.prepared, [{ statement: rollback }, { statement: unlock }]);
  }

  private explain(error: unknown): unknown {
    const cause = postgresErrorOf(error);
    if (failedStatement(error) === this.statements.insert) {
      switch (nullColumnOf(error, ['created_at', 'claim_id'])) {
        case 'created_at':
          return new KeyAlreadyRecordedError('another request recorded this key first', { cause });
        case 'claim_id':
          return new TransactionEndedByHandlerError('the transaction of the claim is over', { cause });
      }
      if (refusesRow(cause?.code)) {
        return new RecordRefusedError(`the row of the key was refused: ${cause!.message}`, { cause });
      }
    }
    return error;
  }
}

function foundIn({ rows: [row] }: StatementResult): FoundKey | undefined {
  return row === undefined ? undefined : foundKeyOf(row);
}

function allOf({ begin, ...others }: ReturnType<typeof keyStatementsOn>): Statement[] {
  return [...Object.values(begin), ...Object.values(others)];
}
