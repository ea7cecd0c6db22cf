import type { PoolClient } from 'pg';
import type { IsolationLevel } from '../../protocol/options.js';
import type { NewRecord } from '../../protocol/request.js';
import { lockNumber } from '../lock-number.js';
import { type Queryable, rowsOf } from '../queryable.js';
import { type BoundStatement, failedStatement, type Statement, type StatementResult } from '../statement-batch.js';
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
import { StatementRunner } from '../statement-runner.js';
import { nullColumnOf, postgresErrorOf } from '../sqlstate.js';
import {
  BEGIN,
  CHECK_CONSTRAINTS,
  COMMIT,
  epochMs,
  type FoundKey,
  foundKeyOf,
  lookUpStatement,
  ROLLBACK,
  UNFINISHED_STATE,
  UNLOCK,
} from './shared-statements.js';
import type { Attention, KeyIdentity, StoredKey, UnfinishedState } from '../../protocol/stored-key.js';
import { KEYS_TABLE, STEPS_TABLE, tableName } from '../table-name.js';

export interface ClaimRequest extends KeyIdentity {
  /** Names this attempt, whose transaction it must still be at the record. */
  claimId: string;
  /** After this long PostgreSQL itself ends a transaction whose application is frozen. */
  transactionTimeoutMs: number;
  isolation: IsolationLevel | undefined;
  /** Sets a savepoint behind the claim, for a route that stores errors without the handler's writes. */
  savepoint: boolean;
}

export type ClaimResult = { kind: 'claimed' } | { kind: 'in flight' } | FoundKey;
export type PeekResult = { kind: 'free' } | { kind: 'in flight' } | FoundKey;

export interface PurgedBatch {
  deleted: number;
  /** Whether another purge is at work. */
  locked: boolean;
  /** The latest expiry of those that were due, to the microsecond, as PostgreSQL reads it in any DateStyle; or null. */
  reached: string | null;
}

/** The record's INSERT met a live row of the same key: another request recorded it first. */
export class KeyAlreadyRecordedError extends Error {}

/** The transaction at the record is not the one of the claim: the handler ended it by a statement of its own. */
export class TransactionEndedByHandlerError extends Error {}

/** Nothing can be recorded here: a standby, or a server that was told to take no writes. */
export class ReadOnlyServerError extends Error {
  constructor() {
    super('The server takes no writes: it is a standby, or default_transaction_read_only is on.');
  }
}

/** Every statement of transaction mode that runs against the table of keys, and those of operators; one method each. */
export class KeyStore {
  readonly table: string;
  private readonly steps: string;
  private readonly statements: ReturnType<typeof statementsOn>;
  private readonly prepared: readonly Statement[];

  constructor(
    private readonly schema?: string,
    private readonly runner = new StatementRunner(),
    private readonly searchPaths?: SearchPathWatch,
    /** Whether the tables are those of Citus: see {@link KeyTables.isDistributed}. */
    private readonly isDistributed = false,
  ) {
    this.table = tableName(KEYS_TABLE, schema);
    this.steps = tableName(STEPS_TABLE, schema);
    this.statements = statementsOn(this.table);
    const { begin, ...others } = this.statements;
    this.prepared = [...Object.values(begin), ...Object.values(others)];
  }

  /**
   * Begins a transaction and claims the key in it: one round trip. Unless the answer is `claimed`, the caller ends
   * the transaction by {@link rollback}.
   *
   * The look-up is a statement of its own behind the lock: under READ COMMITTED it then sees what the last holder
   * committed. In one statement with the lock it would not.
   *
   * @throws ReadOnlyServerError, or the driver's error; the client must be destroyed then
   */
  async claim(client: PoolClient, request: ClaimRequest): Promise<ClaimResult> {
    const { begin, claim, lookUp, savepoint } = this.statements;
    const results = await this.run(client, [
      { statement: begin[request.isolation ?? 'default'] },
      { statement: claim, values: [this.lockOf(request), String(request.transactionTimeoutMs)] },
      { statement: lookUp, values: [request.scope, request.key] },
      ...(request.savepoint ? [{ statement: savepoint }] : []),
    ]);
    const found = foundIn(results[2]!);
    if (found !== undefined) {
      return found;
    }
    const [locked, ...row] = results[1]!.rows[0]!;
    const { readOnly, searchPath } = noteSettings(client, request.claimId, row);
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
    const [, lock, look] = await this.run(client, [
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
    const [result] = await this.run(client, [{ statement: this.statements.lookUp, values: [scope, key] }]);
    return foundIn(result!);
  }

  /**
   * Checks deferred constraints, records the response and commits, in one round trip. What the handler has set in its
   * session does not reach the record.
   *
   * @param undoWrites goes back to the savepoint of the claim first, so that only the response is committed
   * @throws KeyAlreadyRecordedError, TransactionEndedByHandlerError, or the driver's error; the client must be
   * destroyed then, and unless `isDefiniteFailure` says so the outcome is open
   */
  async record(client: PoolClient, record: NewRecord, undoWrites: boolean): Promise<void> {
    const { undo, unlock, checkConstraints, insert, commit } = this.statements;
    const settings = settingsAtBegin(client, record.request.claimId);
    let results: StatementResult[];
    try {
      results = await this.run(client, [
        ...(undoWrites
          ? [{ statement: undo }, { statement: unlock }]
          : [putBackLimits(settings), { statement: checkConstraints }]),
        putBackSession(settings),
        { statement: insert, values: insertValues(record, settings.marker) },
        { statement: commit },
      ]);
    } catch (error) {
      this.runner.shouldRunAgain(error); // where the handler itself has deallocated them, its next attempt must not fail again
      throw this.explain(error);
    }
    const tag = results.at(-1)?.tag;
    if (tag !== 'COMMIT') {
      // COMMIT of a failed transaction succeeds with the tag ROLLBACK (PostgreSQL manual, COMMIT).
      throw new Error(`COMMIT was answered with ${tag}: nothing was committed`);
    }
  }

  /** Undoes what a handler did, if one ran, and frees what it still holds of the session. */
  async rollback(client: PoolClient): Promise<void> {
    const { rollback, unlock } = this.statements;
    await this.run(client, [{ statement: rollback }, { statement: unlock }]);
  }

  async find(db: Queryable, { scope, key }: KeyIdentity): Promise<StoredKey | undefined> {
    const rows = await rowsOf<OperatorRow>(
      db,
      `select k.scope, k.key, k.method, k.path, k.attempt, k.response_status as status, k.response_bytes as bytes,
              k.response_body is not null as body_kept, ${UNFINISHED_STATE} as state,
              ${epochMs('k.created_at')} as created_at_ms, ${epochMs('k.expires_at')} as expires_at_ms,
              ${epochMs('k.lease_expires_at')} as lease_expires_at_ms, k.attention, k.execution_id
       from ${this.table} k
       where k.scope = $1::text and k.key = $2::text and k.expires_at > clock_timestamp()`,
      [scope, key],
    );
    const [row] = rows;
    return row === undefined ? undefined : storedKeyOf(row, row.state === null ? [] : await this.stepsOf(db, row));
  }

  /** By a query of its own: two distributed tables cannot be joined by this. */
  private async stepsOf(db: Queryable, { execution_id: executionId }: OperatorRow): Promise<string[]> {
    const rows = await rowsOf<{ name: string }>(
      db,
      `select name from ${this.steps} where execution_id = $1::uuid and outcome -> 'keysUsedUp' is null
       order by position, created_at`,
      [executionId],
    );
    return rows.map(({ name }) => name);
  }

  /** Deletes the key's record, expired or not, with its steps, and tells whether there was one. */
  async forget(db: Queryable, { scope, key }: KeyIdentity): Promise<boolean> {
    const rows = await rowsOf<{ count: number }>(
      db,
      `with forgotten as (
              delete from ${this.table} where scope = $1::text and key = $2::text returning execution_id),
            ${this.withTheirSteps('forgotten')}
       select count(*)::int4 as count from forgotten`,
      [scope, key],
    );
    return rows[0]!.count > 0;
  }

  /** Deletes up to `limit` keys of a scope, whatever their state, with their steps, and tells how many. */
  async forgetScope(db: Queryable, scope: string, limit: number): Promise<number> {
    const rows = await rowsOf<{ count: number }>(
      db,
      `with forgotten as (
              delete from ${this.table} where scope = $1::text and key = any (array(
                select key from ${this.table} where scope = $1::text limit $2::int4))
              returning execution_id),
            ${this.withTheirSteps('forgotten')}
       select count(*)::int4 as count from forgotten`,
      [scope, limit],
    );
    return rows[0]!.count;
  }

  /**
   * Deletes up to `batchSize` expired rows, oldest first, in one statement of its own. A second purger would only
   * wait for the first one's rows: it finds the lock taken and answers `locked`.
   *
   * A row's place names it only within one table: others of the same place, in other partitions or children, may be
   * locked, and are not part of the batch. Rows of distributed tables have no place, and cannot be locked: they go by
   * their primary key, which on a plain table takes 3.5 times as long. Steps go with their key, so that nobody has to
   * look for those that were left behind among all that live.
   *
   * @param after what the batch before it answered: otherwise each would read again the index entries of all that were
   * deleted before it, which stay until a vacuum
   */
  async purgeBatch(db: Queryable, batchSize: number, after?: PurgedBatch): Promise<PurgedBatch> {
    const rows = await rowsOf<PurgedBatch>(
      db,
      // materialized: the lock is tried once and before anything is read, whatever the planner thinks of it
      `with turn as materialized (select pg_try_advisory_xact_lock($1::int8) as mine),
            due as materialized (
              select ${this.isDistributed ? 'scope, key' : 'tableoid as part, ctid as place'}, expires_at from ${this.table}
              where expires_at <= clock_timestamp() and (select mine from turn)
                and expires_at >= coalesce($3::timestamptz, '-infinity')
              order by expires_at
              limit $2::int4
              ${this.isDistributed ? '' : 'for update skip locked'}),
            purged as (${this.isDistributed ? this.deleteByKey : this.deleteByPlace}),
            ${this.withTheirSteps('purged')}
       select not (select mine from turn) as locked, (select count(*)::int4 from purged) as deleted,
              (select to_char(max(expires_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.USZ') from due) as reached`,
      [lockNumber([this.schema ?? '', 'purge']), batchSize, after?.reached],
    );
    return rows[0]!;
  }

  private get deleteByPlace(): string {
    return `
              delete from ${this.table}
              where ctid = any (array(select place from due)) and (tableoid, ctid) in (select part, place from due)
                and expires_at <= clock_timestamp()
              returning execution_id`;
  }

  private get deleteByKey(): string {
    return `
              delete from ${this.table} k using due
              where k.scope = due.scope and k.key = due.key and k.expires_at <= statement_timestamp()
              returning k.execution_id`;
  }

  async countExpired(db: Queryable): Promise<number> {
    const rows = await rowsOf<{ count: string }>(
      db,
      `select count(*)::int8 as count from ${this.table} where expires_at <= clock_timestamp()`,
    );
    return Number(rows[0]!.count);
  }

  /** What the database keeps text in: `'UTF8'`, `'LATIN1'` and so on. */
  async databaseEncoding(db: Queryable): Promise<string> {
    const rows = await rowsOf<{ server_encoding: string }>(db, 'show server_encoding');
    return rows[0]!.server_encoding;
  }

  /** A part of a statement that deletes keys. By an array: a join is estimated by the batch, and read all steps there are. */
  private withTheirSteps(deleted: string): string {
    return `gone as (
              delete from ${this.steps} where execution_id = any (array(select execution_id from ${deleted})))`;
  }

  private run(client: PoolClient, batch: BoundStatement[]): Promise<StatementResult[]> {
    return this.runner.run(client, batch, this.prepared);
  }

  /** A collision is a false 409, never a second execution. */
  private lockOf({ scope, key }: KeyIdentity): string {
    return lockNumber([this.schema ?? '', scope, key]);
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
    }
    return error;
  }
}

function statementsOn(table: string) {
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
          trace_context = excluded.trace_context`,
    },
    commit: COMMIT,
    rollback: ROLLBACK,
  } as const;
}

function foundIn({ rows: [row] }: StatementResult): FoundKey | undefined {
  return row === undefined ? undefined : foundKeyOf(row);
}

function insertValues({ request, response }: NewRecord, marker: string): (string | Buffer | null)[] {
  return [
    request.scope,
    request.key,
    request.fingerprint,
    String(request.fingerprintVersion),
    request.method,
    request.path,
    request.claimId,
    String(response.status),
    JSON.stringify(response.headers),
    response.body,
    String(response.bodyBytes),
    String(request.ttlMs),
    marker,
    request.traceContext ?? null,
  ];
}

/** A row as TypeORM or pg give it: 64-bit numbers as text. */
interface OperatorRow extends KeyIdentity {
  method: string;
  path: string;
  attempt: number | null;
  status: number;
  bytes: string;
  body_kept: boolean;
  state: UnfinishedState | null;
  created_at_ms: string;
  expires_at_ms: string | null;
  lease_expires_at_ms: string | null;
  attention: Attention | null;
  execution_id: string | null;
}

function storedKeyOf(row: OperatorRow, steps: string[]): StoredKey {
  const { scope, key, method, path, attempt, state, attention } = row;
  const expires = row.expires_at_ms;
  const request = {
    scope,
    key,
    method,
    path,
    createdAt: new Date(Number(row.created_at_ms)),
    expiresAt: expires === null ? undefined : new Date(Number(expires)),
    attempt: attempt ?? undefined,
  };
  if (state === null) {
    return {
      ...request,
      state: 'completed',
      status: row.status,
      bodyBytes: Number(row.bytes),
      bodyKept: row.body_kept,
    };
  }
  const lease = row.lease_expires_at_ms;
  return {
    ...request,
    state,
    leaseExpiresAt: lease === null ? undefined : new Date(Number(lease)),
    steps,
    attention: attention ?? undefined,
  };
}
