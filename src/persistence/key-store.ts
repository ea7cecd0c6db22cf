import { createHash } from 'node:crypto';
import type { PoolClient } from 'pg';
import type { IsolationLevel } from '../idempotency.options.js';
import { type BoundStatement, runBatch, type Statement, type StatementResult } from './statement-batch.js';
import { SQLSTATE, postgresErrorOf, sqlStateOf } from './sqlstate.js';
import { KEYS_TABLE, tableName } from './table-name.js';

/** A header line as it is stored: `null` for one that was there before the handler ran and was taken away by it. */
export type StoredHeader = [name: string, value: string | null];

/** What identifies one execution. */
export interface KeyIdentity {
  scope: string;
  key: string;
}

/** A recorded response. `body` is null where it was too large to keep. */
export interface StoredResponse {
  claimId: string;
  fingerprint: Buffer;
  fingerprintVersion: number;
  status: number;
  headers: StoredHeader[];
  body: Buffer | null;
  createdAt: Date;
}

/** A key as operators see it. */
export interface StoredKey extends KeyIdentity {
  method: string;
  path: string;
  status: number;
  /** Bytes of the response's body; for one that was too large to keep: those counted before it was given up. */
  bodyBytes: number;
  bodyKept: boolean;
  createdAt: Date;
  expiresAt: Date;
}

export interface ClaimRequest extends KeyIdentity {
  /** Names this attempt: proves at the record that the transaction is still the claim's own. */
  claimId: string;
  /** After this long PostgreSQL itself ends a transaction whose application is frozen. */
  transactionTimeoutMs: number;
  isolation: IsolationLevel | undefined;
  /** Sets a savepoint behind the claim, for a route that stores errors without the handler's writes. */
  savepoint: boolean;
}

export type ClaimResult = { kind: 'claimed' } | { kind: 'completed'; response: StoredResponse } | { kind: 'in flight' };

export interface NewRecord extends KeyIdentity {
  claimId: string;
  fingerprint: Buffer;
  fingerprintVersion: number;
  method: string;
  path: string;
  status: number;
  headers: StoredHeader[];
  body: Buffer | null;
  bodyBytes: number;
  ttlMs: number;
}

/** Anything that runs SQL text: a TypeORM DataSource, EntityManager or QueryRunner. */
export interface Queryable {
  query(sql: string, parameters?: unknown[]): Promise<unknown>;
}

/** The record's INSERT met a live row of the same key: another request recorded it first. */
export class KeyAlreadyRecordedError extends Error {}

/** The transaction at the record is not the one of the claim: the handler ended it by a statement of its own. */
export class TransactionEndedByHandlerError extends Error {}

/** Carried by a transaction-local setting, which ends with the transaction: a marker that no COMMIT survives. */
const CLAIM_SETTING = 'nestjs_idempotency.claim_id';

/** Every statement that runs against the table, one method each. */
export class KeyStore {
  readonly table: string;
  private readonly statements: ReturnType<typeof statementsOn>;
  private readonly prepared: readonly Statement[];
  /** Off once a pooler turned out to lose prepared statements between transactions. */
  private keepsPrepared = true;

  constructor(private readonly schema?: string) {
    this.table = tableName(KEYS_TABLE, schema);
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
   * @throws the driver's error; the client must be destroyed then
   */
  async claim(client: PoolClient, request: ClaimRequest): Promise<ClaimResult> {
    const { begin, claim, lookUp, savepoint } = this.statements;
    const results = await this.run(client, [
      { statement: begin[request.isolation ?? 'default'] },
      { statement: claim, values: [this.lockOf(request), request.claimId, String(request.transactionTimeoutMs)] },
      { statement: lookUp, values: [request.scope, request.key] },
      ...(request.savepoint ? [{ statement: savepoint }] : []),
    ]);
    const [locked] = results[1]!.rows[0]!;
    const row = results[2]!.rows[0];
    if (row !== undefined) {
      return { kind: 'completed', response: storedResponseOf(row) };
    }
    return locked === 't' ? { kind: 'claimed' } : { kind: 'in flight' };
  }

  /** The recorded response, without a transaction: one round trip that leaves nothing to end. */
  async lookUp(client: PoolClient, { scope, key }: KeyIdentity): Promise<StoredResponse | undefined> {
    const [result] = await this.run(client, [{ statement: this.statements.lookUp, values: [scope, key] }]);
    const row = result!.rows[0];
    return row === undefined ? undefined : storedResponseOf(row);
  }

  /**
   * Checks deferred constraints, records the response and commits, in one round trip.
   *
   * @param undoWrites goes back to the savepoint of the claim first, so that only the response is committed
   * @throws KeyAlreadyRecordedError, TransactionEndedByHandlerError, or the driver's error; the client must be
   * destroyed then, and unless `isDefiniteFailure` says so the outcome is open
   */
  async record(client: PoolClient, record: NewRecord, undoWrites: boolean): Promise<void> {
    const { undo, checkConstraints, insert, commit } = this.statements;
    let results: StatementResult[];
    try {
      results = await this.run(client, [
        { statement: undoWrites ? undo : checkConstraints },
        { statement: insert, values: insertValues(record) },
        { statement: commit },
      ]);
    } catch (error) {
      this.shouldClaimAgain(error); // where the handler itself has deallocated them, its next attempt must not fail again
      throw this.explain(error);
    }
    const tag = results.at(-1)?.tag;
    if (tag !== 'COMMIT') {
      // COMMIT of a failed transaction succeeds with the tag ROLLBACK (PostgreSQL manual, COMMIT).
      throw new Error(`COMMIT was answered with ${tag}: nothing was committed`);
    }
  }

  async rollback(client: PoolClient): Promise<void> {
    await this.run(client, [{ statement: this.statements.rollback }]);
  }

  async find(db: Queryable, { scope, key }: KeyIdentity): Promise<StoredKey | undefined> {
    const rows = (await db.query(
      `select scope, key, method, path, response_status, response_bytes, response_body is not null as body_kept,
              extract(epoch from created_at) * 1000 as created_at_ms, extract(epoch from expires_at) * 1000 as expires_at_ms
       from ${this.table}
       where scope = $1::text and key = $2::text and expires_at > clock_timestamp()`,
      [scope, key],
    )) as Record<string, unknown>[];
    const [row] = rows;
    return row === undefined
      ? undefined
      : {
          scope: row.scope as string,
          key: row.key as string,
          method: row.method as string,
          path: row.path as string,
          status: row.response_status as number,
          bodyBytes: Number(row.response_bytes),
          bodyKept: row.body_kept as boolean,
          // Not as dates: pg reads those only in the DateStyle ISO.
          createdAt: new Date(Number(row.created_at_ms)),
          expiresAt: new Date(Number(row.expires_at_ms)),
        };
  }

  /** Deletes the key's record, expired or not, and tells whether there was one. */
  async forget(db: Queryable, { scope, key }: KeyIdentity): Promise<boolean> {
    const rows = (await db.query(
      `with forgotten as (delete from ${this.table} where scope = $1::text and key = $2::text returning 1)
       select count(*)::int4 as count from forgotten`,
      [scope, key],
    )) as { count: number }[];
    return rows[0]!.count > 0;
  }

  /**
   * Deletes up to `batchSize` expired rows, oldest first, in one statement of its own. A second purger would only
   * wait for the first one's rows: it finds the lock taken and answers `locked`.
   */
  async purgeBatch(db: Queryable, batchSize: number): Promise<{ deleted: number; locked: boolean }> {
    const rows = (await db.query(
      // materialized: the lock is tried once and before anything is read, whatever the planner thinks of it
      `with turn as materialized (select pg_try_advisory_xact_lock($1::int8) as mine),
            purged as (
              delete from ${this.table}
              where ctid = any (array(
                select ctid from ${this.table}
                where expires_at <= clock_timestamp() and (select mine from turn)
                order by expires_at
                limit $2::int4
                for update skip locked))
              returning 1)
       select (select mine from turn) as mine, (select count(*)::int4 from purged) as deleted`,
      [lockNumber([this.schema ?? '', 'purge']), batchSize],
    )) as { mine: boolean; deleted: number }[];
    const { mine, deleted } = rows[0]!;
    return { deleted, locked: !mine };
  }

  async countExpired(db: Queryable): Promise<number> {
    const rows = (await db.query(
      `select count(*)::int8 as count from ${this.table} where expires_at <= clock_timestamp()`,
    )) as { count: string }[];
    return Number(rows[0]!.count);
  }

  async tableExists(db: Queryable): Promise<boolean> {
    const rows = (await db.query('select to_regclass($1::text) is not null as found', [this.table])) as {
      found: boolean;
    }[];
    return rows[0]!.found;
  }

  private async run(client: PoolClient, batch: BoundStatement[]): Promise<StatementResult[]> {
    return runBatch(client, batch, this.keepsPrepared ? this.prepared : undefined);
  }

  /**
   * True when a claim failed because prepared statements do not stay with the connection (PgBouncer in transaction
   * mode before 1.21). Claiming again, on another connection, is safe: nothing has run. From then on the statements are
   * sent unnamed.
   */
  shouldClaimAgain(error: unknown): boolean {
    switch (sqlStateOf(error)) {
      case SQLSTATE.invalidSqlStatementName:
      case SQLSTATE.duplicatePreparedStatement:
        this.keepsPrepared = false; // unnamed statements cannot fail that way: this comes to an end
        return true;
      default:
        return false;
    }
  }

  /** 64 bits of SHA-256: a collision is a false 409, never a second execution. */
  private lockOf({ scope, key }: KeyIdentity): string {
    return lockNumber([this.schema ?? '', scope, key]);
  }

  private explain(error: unknown): unknown {
    const cause = postgresErrorOf(error);
    if (cause?.table === KEYS_TABLE) {
      delete cause.detail; // the whole row, with the key and the response: not for the log
    }
    if (cause?.code === SQLSTATE.notNullViolation && cause.table === KEYS_TABLE) {
      switch (cause.column) {
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
    begin: {
      default: { id: 'begin', text: 'begin' },
      'READ UNCOMMITTED': { id: 'begin_ru', text: 'begin isolation level read uncommitted' },
      'READ COMMITTED': { id: 'begin_rc', text: 'begin isolation level read committed' },
      'REPEATABLE READ': { id: 'begin_rr', text: 'begin isolation level repeatable read' },
      SERIALIZABLE: { id: 'begin_s', text: 'begin isolation level serializable' },
    },
    claim: {
      id: 'claim',
      // The settings ride along. A COMMIT that is not durable would break a promise already given to the client, so
      // synchronous_commit goes on where it is off; the time limits free the key when the application is frozen.
      text: `select pg_try_advisory_xact_lock($1::int8),
        set_config('${CLAIM_SETTING}', $2::text, true),
        set_config('idle_in_transaction_session_timeout', $3::text, true),
        case when current_setting('server_version_num')::int4 >= 170000
          then set_config('transaction_timeout', $3::text, true) end,
        case when current_setting('synchronous_commit') = 'off'
          then set_config('synchronous_commit', 'on', true) end`,
    },
    lookUp: {
      id: 'look_up',
      text: `select claim_id, encode(fingerprint, 'hex'), fingerprint_version, response_status, response_headers,
          encode(response_body, 'hex'), extract(epoch from created_at) * 1000
        from ${table}
        where scope = $1::text and key = $2::text and expires_at > clock_timestamp()`,
    },
    savepoint: { id: 'savepoint', text: 'savepoint idempotency_claim' },
    undo: { id: 'undo', text: 'rollback to savepoint idempotency_claim' },
    checkConstraints: { id: 'check', text: 'set constraints all immediate' },
    insert: {
      id: 'insert',
      // Two columns become null, which their constraints refuse, when the row must not be written: claim_id when the
      // claim's transaction is over, created_at when the row met is not an expired one. Being errors, they keep the
      // COMMIT behind them from being executed.
      text: `insert into ${table} as k (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
          response_status, response_headers, response_body, response_bytes, created_at, expires_at)
        values ($1::text, $2::text, $3::bytea, $4::int2, $5::text, $6::text,
          case when current_setting('${CLAIM_SETTING}', true) = $7::text then $7::uuid end,
          $8::int2, $9::jsonb, $10::bytea, $11::int8,
          clock_timestamp(), clock_timestamp() + $12::float8 * interval '1 millisecond')
        on conflict (scope, key) do update set
          fingerprint = excluded.fingerprint, fingerprint_version = excluded.fingerprint_version,
          method = excluded.method, path = excluded.path, claim_id = excluded.claim_id,
          response_status = excluded.response_status, response_headers = excluded.response_headers,
          response_body = excluded.response_body, response_bytes = excluded.response_bytes,
          created_at = case when k.expires_at <= clock_timestamp() then excluded.created_at end,
          expires_at = excluded.expires_at`,
    },
    commit: { id: 'commit', text: 'commit' },
    rollback: { id: 'rollback', text: 'rollback' },
  } as const;
}

function insertValues(record: NewRecord): (string | Buffer | null)[] {
  return [
    record.scope,
    record.key,
    record.fingerprint,
    String(record.fingerprintVersion),
    record.method,
    record.path,
    record.claimId,
    String(record.status),
    JSON.stringify(record.headers),
    record.body,
    String(record.bodyBytes),
    String(record.ttlMs),
  ];
}

function storedResponseOf(row: (string | null)[]): StoredResponse {
  const [claimId, fingerprint, fingerprintVersion, status, headers, body, createdAtMs] = row as [
    string,
    string,
    string,
    string,
    string,
    string | null,
    string,
  ];
  return {
    claimId,
    fingerprint: Buffer.from(fingerprint, 'hex'),
    fingerprintVersion: Number(fingerprintVersion),
    status: Number(status),
    headers: JSON.parse(headers) as StoredHeader[],
    body: body === null ? null : Buffer.from(body, 'hex'),
    createdAt: new Date(Number(createdAtMs)),
  };
}

function lockNumber(parts: string[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest().readBigInt64BE(0).toString();
}
