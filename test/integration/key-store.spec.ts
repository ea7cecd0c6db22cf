import { randomBytes, randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Pool, type PoolClient } from 'pg';
import { DataSource } from 'typeorm';
import {
  KeyAlreadyRecordedError,
  KeyStore,
  type ClaimRequest,
  type NewRecord,
  type PurgedBatch,
  TransactionEndedByHandlerError,
} from '../../src/persistence/key-store.js';
import type { Queryable } from '../../src/persistence/queryable.js';
import type { FoundKey, StoredHeader, StoredResponse } from '../../src/persistence/shared-statements.js';
import { isDefiniteFailure, sqlStateOf } from '../../src/persistence/sqlstate.js';
import { StatementRunner } from '../../src/persistence/statement-runner.js';
import { CountingProxy } from '../support/counting-proxy.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { waitFor } from '../support/wait-for.js';

const IN_FAILED_TRANSACTION = '25P02';
const INVALID_STATEMENT_NAME = '26000';
const FOREIGN_KEY_VIOLATION = '23503';

let database: TestDatabase;
let pool: Pool;
let runner: StatementRunner;
let store: KeyStore;
/** Clients of a test, and what else it has to give back. */
let undo: (() => unknown)[];

beforeAll(async () => {
  database = await createTestDatabase();
  pool = new Pool({ connectionString: database.url, max: 30 });
  await pool.query('create table effects (label text)');
  await pool.query('create schema infra');
  await pool.query(`create table infra.idempotency_keys (like public.idempotency_keys including all);
    create table infra.idempotency_steps (like public.idempotency_steps including all)`);
});

beforeEach(async () => {
  undo = [];
  runner = new StatementRunner();
  store = new KeyStore(undefined, runner);
  await pool.query('truncate idempotency_keys, infra.idempotency_keys, effects');
});

afterEach(async () => {
  for (const step of undo.toReversed()) await step();
});

afterAll(async () => {
  await pool.end();
  await database.drop();
});

/** A session of its own, which ends with the test. */
async function session(from = pool): Promise<PoolClient> {
  const client = await from.connect();
  undo.push(() => client.release(true));
  return client;
}

function requestFor(key: string, overrides: Partial<ClaimRequest> = {}): ClaimRequest {
  const defaults = { transactionTimeoutMs: 60_000, isolation: undefined, savepoint: false };
  return { scope: '', key, claimId: randomUUID(), ...defaults, ...overrides };
}

type Overrides = Partial<NewRecord['request'] & NewRecord['response']>;

function recordFor({ scope, key, claimId }: ClaimRequest, overrides: Overrides = {}): NewRecord {
  const { status, headers, body, bodyBytes, ...ofRequest } = overrides;
  return {
    request: {
      scope,
      key,
      claimId,
      fingerprint: Buffer.alloc(32, 7),
      fingerprintVersion: 1,
      method: 'POST',
      path: '/payments',
      ttlMs: 60_000,
      ...ofRequest,
    },
    response: {
      status: status ?? 201,
      headers: headers ?? [['Content-Type', 'application/json']],
      body: body === undefined ? Buffer.from('{"id":1}') : body,
      bodyBytes: bodyBytes ?? 8,
    },
  };
}

async function claimed(client: PoolClient, key: string, overrides?: Partial<ClaimRequest>): Promise<ClaimRequest> {
  const request = requestFor(key, overrides);
  expect(await store.claim(client, request)).toEqual({ kind: 'claimed' });
  return request;
}

/** The whole life of a key's first request. */
async function complete(key: string, overrides?: Overrides): Promise<ClaimRequest> {
  const client = await session();
  const request = await claimed(client, key);
  await store.record(client, recordFor(request, overrides), false);
  return request;
}

const write = (client: PoolClient, label = 'done') => client.query('insert into effects (label) values ($1)', [label]);

async function effects(): Promise<string[]> {
  const { rows } = await pool.query<{ label: string }>('select label from effects order by label');
  return rows.map(({ label }) => label);
}

async function rowsOf(table = 'idempotency_keys'): Promise<Record<string, unknown>[]> {
  const { rows } = await pool.query<Record<string, unknown>>(`select * from ${table} order by scope, key`);
  return rows;
}

async function valueOf(client: Pool | PoolClient, expression: string): Promise<unknown> {
  const { rows } = await client.query<{ value: unknown }>(`select ${expression} as value`);
  return rows[0]!.value;
}

const inTransaction = (client: PoolClient) => client.getTransactionStatus() === 'T';

function responseOf(found: FoundKey | undefined): StoredResponse {
  if (found?.kind !== 'completed') throw new Error(`no response, but ${JSON.stringify(found)}`);
  return found.response;
}

/** What a promise was rejected with. */
async function errorOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => {
      throw new Error('it did not fail');
    },
    (error: unknown) => error,
  );
}

async function backDate(key: string): Promise<void> {
  await pool.query(
    `update idempotency_keys set created_at = created_at - interval '2 days', expires_at = clock_timestamp() where key = $1`,
    [key],
  );
}

describe('a claim', () => {
  it('begins a transaction and writes nothing', async () => {
    const client = await session();
    await claimed(client, 'k');
    expect(inTransaction(client)).toBe(true);
    expect(await valueOf(client, 'pg_current_xact_id_if_assigned()')).toBeNull();
    expect(await rowsOf()).toEqual([]);
  });

  it('finds the key in flight while another session has it, and free when that one has rolled back', async () => {
    const [first, second] = [await session(), await session()];
    await claimed(first, 'k');
    expect(await store.claim(second, requestFor('k'))).toEqual({ kind: 'in flight' });
    await store.rollback(second);
    expect(inTransaction(second)).toBe(false);

    await store.rollback(first);
    expect(inTransaction(first)).toBe(false);
    await claimed(second, 'k');
  });

  it('is free again when the session of the one before was cut off', async () => {
    const [first, second] = [await pool.connect(), await session()];
    await claimed(first, 'k');
    await write(first);
    first.release(true);
    await waitFor(
      async () => {
        const { kind } = await store.claim(second, requestFor('k'));
        if (kind !== 'claimed') await store.rollback(second);
        return kind === 'claimed';
      },
      { what: 'the lock to be free' },
    );
    expect(await effects()).toEqual([]);
  });

  it('finds what was recorded, byte for byte', async () => {
    const headers: StoredHeader[] = [
      ['Link', '</a>; rel="next"'],
      ['Link', '</b>; rel="prev"'],
      ['X-Gone', null],
      ['X-Latin', 'caf\u00e9 \\ "quoted"'],
    ];
    const body = randomBytes(100_000);
    const fingerprint = randomBytes(32);
    const before = Date.now();
    const { claimId } = await complete('k', { headers, body, bodyBytes: body.length, fingerprint, status: 299 });

    const client = await session();
    const expected = {
      claimId,
      fingerprint,
      fingerprintVersion: 1,
      status: 299,
      headers,
      body,
      createdAt: expect.any(Date),
    };
    const result = await store.claim(client, requestFor('k'));
    expect(result).toEqual({ kind: 'completed', response: expected });
    await store.rollback(client);
    const found = responseOf(await store.lookUp(client, { scope: '', key: 'k' }));
    expect(found).toEqual(expected);
    expect(Math.abs(found.createdAt.getTime() - before)).toBeLessThan(60_000);
    expect(inTransaction(client)).toBe(false);
  });

  it('finds what was recorded whoever has the lock', async () => {
    await complete('k');
    const holder = await session();
    expect((await store.claim(holder, requestFor('k'))).kind).toBe('completed');
    const client = await session();
    expect((await store.claim(client, requestFor('k'))).kind).toBe('completed');
  });

  it('tells an empty body from one that was not kept', async () => {
    await complete('empty', { body: Buffer.alloc(0), bodyBytes: 0 });
    await complete('not kept', { body: null, bodyBytes: 2_000_000_000_000 });
    const client = await session();
    expect(responseOf(await store.lookUp(client, { scope: '', key: 'empty' })).body).toEqual(Buffer.alloc(0));
    expect(responseOf(await store.lookUp(client, { scope: '', key: 'not kept' })).body).toBeNull();
    expect(await store.lookUp(client, { scope: 'other', key: 'empty' })).toBeUndefined();
  });

  it('keeps apart keys of different scopes, tables and halves', async () => {
    const inOtherSchema = new KeyStore('infra');
    const clients = await Promise.all([1, 2, 3, 4, 5].map(() => session()));
    await claimed(clients[0]!, 'bc', { scope: 'a' });
    await claimed(clients[1]!, 'c', { scope: 'ab' });
    await claimed(clients[2]!, 'abc');
    await claimed(clients[3]!, '["a","bc"]');
    const request = requestFor('bc', { scope: 'a' });
    expect(await inOtherSchema.claim(clients[4]!, request)).toEqual({ kind: 'claimed' });
    await inOtherSchema.record(clients[4]!, recordFor(request), false);
    expect(await rowsOf('infra.idempotency_keys')).toHaveLength(1);
    expect(await rowsOf()).toEqual([]);
  });

  it.each(["'; drop table idempotency_keys; --", '\\', '"', '𝒳'.repeat(127), 'x'.repeat(255), ' ', '%_'])(
    'takes any key as it is: %j',
    async (key) => {
      await complete(key);
      const client = await session();
      expect((await store.claim(client, requestFor(key))).kind).toBe('completed');
      expect((await rowsOf()).map((row) => row['key'])).toEqual([key]);
    },
  );

  it('does not see a row that has expired, whether or not it was purged', async () => {
    await complete('k');
    await backDate('k');
    const client = await session();
    expect(await store.lookUp(client, { scope: '', key: 'k' })).toBeUndefined();
    await claimed(client, 'k');
  });

  it.each([
    ['READ UNCOMMITTED', 'read uncommitted'],
    ['READ COMMITTED', 'read committed'],
    ['REPEATABLE READ', 'repeatable read'],
    ['SERIALIZABLE', 'serializable'],
  ] as const)('begins with isolation level %s', async (isolation, level) => {
    const client = await session();
    for (let round = 0; round < 2; round++) {
      await claimed(client, 'k', { isolation });
      expect(await valueOf(client, "current_setting('transaction_isolation')")).toBe(level);
      await store.rollback(client);
    }
  });

  it("begins with the session's isolation level where none is asked for", async () => {
    const client = await session();
    await client.query("set default_transaction_isolation = 'repeatable read'");
    await claimed(client, 'k');
    expect(await valueOf(client, "current_setting('transaction_isolation')")).toBe('repeatable read');
  });

  it('has its settings end with it', async () => {
    const client = await session();
    await client.query('set synchronous_commit = off');
    const hasTransactionTimeout = await valueOf(client, "current_setting('transaction_timeout', true) is not null");
    const settings = `jsonb_build_array(current_setting('synchronous_commit'),
      current_setting('idle_in_transaction_session_timeout'), current_setting('transaction_timeout', true))`;
    const before = await valueOf(client, settings);
    expect(before).toEqual(['off', '0', hasTransactionTimeout ? '0' : null]);
    for (const end of ['record', 'rollback']) {
      const request = await claimed(client, end, { transactionTimeoutMs: 123_000 });
      expect(await valueOf(client, settings)).toEqual(['on', '123s', hasTransactionTimeout ? '123s' : null]);
      await (end === 'record' ? store.record(client, recordFor(request), false) : store.rollback(client));
      expect(await valueOf(client, settings)).toEqual(before);
    }
  });

  it('leaves a synchronous_commit alone that is safer than on', async () => {
    const client = await session();
    await client.query('set synchronous_commit = remote_apply');
    await claimed(client, 'k');
    expect(await valueOf(client, "current_setting('synchronous_commit')")).toBe('remote_apply');
  });
});

describe('claims at once', () => {
  it('have exactly one winner in every round, and the others get its response', async () => {
    const contenders = await Promise.all(Array.from({ length: 20 }, () => session()));
    for (let round = 0; round < 50; round++) {
      const key = `round ${round}`;
      const outcomes = await Promise.all(
        contenders.map(async (client, index) => {
          for (;;) {
            const request = requestFor(key);
            const result = await store.claim(client, request);
            switch (result.kind) {
              case 'claimed':
                await write(client, key);
                await store.record(client, recordFor(request, { body: Buffer.from([index]), bodyBytes: 1 }), false);
                return { won: true, body: Buffer.from([index]) };
              case 'completed':
                await store.rollback(client);
                return { won: false, body: result.response.body! };
              case 'in flight':
                await store.rollback(client);
            }
          }
        }),
      );
      const [winner, ...others] = outcomes.toSorted((a, b) => Number(b.won) - Number(a.won));
      expect(winner!.won).toBe(true);
      expect(others.filter(({ won }) => won)).toEqual([]);
      expect(others.every(({ body }) => body.equals(winner!.body))).toBe(true);
    }
    expect(await effects()).toHaveLength(50);
    expect(await rowsOf()).toHaveLength(50);
  });

  it('of which the winner rolls back have another one', async () => {
    const contenders = await Promise.all(Array.from({ length: 10 }, () => session()));
    let failures = 3;
    const outcomes = await Promise.all(
      contenders.map(async (client) => {
        for (;;) {
          const request = requestFor('k');
          const { kind } = await store.claim(client, request);
          if (kind === 'claimed' && failures-- <= 0) {
            await write(client);
            await store.record(client, recordFor(request), false);
            return 'won';
          }
          if (kind === 'claimed') await write(client, 'undone');
          await store.rollback(client);
          if (kind === 'completed') return 'lost';
        }
      }),
    );
    expect(outcomes.filter((outcome) => outcome === 'won')).toHaveLength(1);
    expect(await effects()).toEqual(['done']);
  });
});

describe('a record', () => {
  it("commits with the handler's writes, in one transaction", async () => {
    const client = await session();
    const request = await claimed(client, 'k');
    await write(client);
    expect(await effects()).toEqual([]);
    await store.record(client, recordFor(request), false);
    expect(inTransaction(client)).toBe(false);
    expect(await effects()).toEqual(['done']);
    const { rows } = await pool.query('select 1 from effects e join idempotency_keys k on k.xmin = e.xmin');
    expect(rows).toHaveLength(1);
  });

  it('keeps all that it is given, and the time by the clock of the database', async () => {
    const { claimId } = await complete('k', { scope: '', ttlMs: 1234.5 });
    const [row] = await rowsOf();
    expect(row).toEqual({
      scope: '',
      key: 'k',
      claim_id: claimId,
      execution_id: null,
      attempt: null,
      lease_expires_at: null,
      fingerprint: Buffer.alloc(32, 7),
      fingerprint_version: 1,
      method: 'POST',
      path: '/payments',
      response_status: 201,
      response_headers: [['Content-Type', 'application/json']],
      response_body: Buffer.from('{"id":1}'),
      response_bytes: '8',
      created_at: expect.any(Date),
      expires_at: expect.any(Date),
    });
    expect(
      await valueOf(pool, `(select extract(epoch from expires_at - created_at)::float8 * 1000 from idempotency_keys)`),
    ).toBeCloseTo(1234.5, 1);
    expect(
      await valueOf(pool, `(select clock_timestamp() - created_at < interval '1 minute' from idempotency_keys)`),
    ).toBe(true);
  });

  it('replaces an expired row with all that is in it', async () => {
    await complete('k', {
      status: 200,
      headers: [['Old', 'yes']],
      body: null,
      bodyBytes: 9,
      path: '/old',
      method: 'PUT',
      fingerprintVersion: 2,
    });
    await backDate('k');
    const [old] = await rowsOf();
    const client = await session();
    const request = await claimed(client, 'k');
    await write(client);
    await store.record(client, recordFor(request, { fingerprint: Buffer.alloc(32, 8) }), false);
    const [replaced, ...more] = await rowsOf();
    expect(more).toEqual([]);
    expect(replaced).toMatchObject({
      claim_id: request.claimId,
      fingerprint: Buffer.alloc(32, 8),
      fingerprint_version: 1,
      method: 'POST',
      path: '/payments',
      response_status: 201,
      response_headers: [['Content-Type', 'application/json']],
      response_body: Buffer.from('{"id":1}'),
      response_bytes: '8',
    });
    expect((replaced!['created_at'] as Date).getTime()).toBeGreaterThan((old!['created_at'] as Date).getTime());
    expect(await effects()).toEqual(['done']);
  });

  it('loses to a live row, and all is rolled back', async () => {
    // Where advisory locks are not real, two have the key: here, because each reckons another lock for the same table.
    const elsewhere = new KeyStore('public');
    const [loser, winner] = [await session(), await session()];
    const losing = await claimed(loser, 'k');
    const winning = requestFor('k');
    expect(await elsewhere.claim(winner, winning)).toEqual({ kind: 'claimed' });
    await write(loser, "the loser's");
    await write(winner, "the winner's");
    await elsewhere.record(winner, recordFor(winning, { status: 202 }), false);

    const error = await errorOf(store.record(loser, recordFor(losing), false));
    expect(error).toBeInstanceOf(KeyAlreadyRecordedError);
    expect(sqlStateOf(await errorOf(write(loser)))).toBe(IN_FAILED_TRANSACTION);
    await loser.query('rollback');
    expect(await effects()).toEqual(["the winner's"]);
    expect((await rowsOf()).map((row) => [row['claim_id'], row['response_status']])).toEqual([[winning.claimId, 202]]);
  });

  it.each([
    ['commit', 'lost', 204],
    ['rollback', 'recorded', 201],
  ])('that waits for another one of the same key, whose end is a %s, is %s', async (end, expected, status) => {
    const [waiting, other] = [await session(), await session()];
    const request = await claimed(waiting, 'k');
    await other.query('begin');
    await other.query(
      `insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id, response_status,
         response_headers, response_bytes, created_at, expires_at)
       values ('', 'k', decode(repeat('00', 32), 'hex'), 1, 'POST', '/', gen_random_uuid(), 204, '[]', 0, now(), now() + interval '1 day')`,
    );
    const pid = Number(await valueOf(waiting, 'pg_backend_pid()'));
    const outcome = store.record(waiting, recordFor(request), false).then(
      () => 'recorded',
      (error: unknown) => (error instanceof KeyAlreadyRecordedError ? 'lost' : error),
    );
    await waitFor(() => valueOf(pool, `cardinality(pg_blocking_pids(${pid})) = 1`), { what: 'the record to wait' });
    await other.query(end);
    expect(await outcome).toBe(expected);
    expect((await rowsOf()).map((row) => row['response_status'])).toEqual([status]);
  });

  it.each(['commit', 'commit; begin', 'rollback; begin', 'commit and chain'])(
    'finds out that the handler has ended the transaction by: %s',
    async (sql) => {
      const client = await session();
      const request = await claimed(client, 'k');
      await write(client);
      await client.query(sql);
      const error = await errorOf(store.record(client, recordFor(request), false));
      expect(error).toBeInstanceOf(TransactionEndedByHandlerError);
      expect(await rowsOf()).toEqual([]);
    },
  );

  it('finds out that the handler has ended the transaction and claimed another key in a new one', async () => {
    const client = await session();
    const request = await claimed(client, 'k');
    await store.rollback(client);
    await claimed(client, 'other');
    expect(await errorOf(store.record(client, recordFor(request), false))).toBeInstanceOf(
      TransactionEndedByHandlerError,
    );
    expect(await rowsOf()).toEqual([]);
  });

  it('fails in a transaction that has failed, whoever has swallowed the error', async () => {
    const client = await session();
    const request = await claimed(client, 'k');
    await write(client);
    await client.query('select 1 / 0').catch(() => undefined);
    const error = await errorOf(store.record(client, recordFor(request), false));
    expect(sqlStateOf(error)).toBe(IN_FAILED_TRANSACTION);
    expect(isDefiniteFailure(error)).toBe(true);
    await client.query('rollback');
    expect(await effects()).toEqual([]);
    expect(await rowsOf()).toEqual([]);
  });

  it('fails where a deferred constraint does, before anything is committed', async () => {
    await pool.query(`create table parents (id int primary key);
      create table children (parent int references parents deferrable initially deferred)`);
    undo.push(() => pool.query('drop table children, parents'));
    const client = await session();
    const request = await claimed(client, 'k');
    await write(client);
    await client.query('insert into children values (1)');
    const error = await errorOf(store.record(client, recordFor(request), false));
    expect(sqlStateOf(error)).toBe(FOREIGN_KEY_VIOLATION);
    expect(isDefiniteFailure(error)).toBe(true);
    expect(sqlStateOf(await errorOf(write(client)))).toBe(IN_FAILED_TRANSACTION); // a COMMIT would have ended it
    await client.query('rollback');
    expect(await effects()).toEqual([]);
    expect(await rowsOf()).toEqual([]);
  });

  it.each(['went well', 'failed'])('without the writes of a handler whose statements %s', async (how) => {
    const client = await session();
    const request = await claimed(client, 'k', { savepoint: true });
    await write(client);
    if (how === 'failed') await client.query('select 1 / 0').catch(() => undefined);
    await store.record(client, recordFor(request, { status: 402 }), true);
    expect(await effects()).toEqual([]);
    expect((await rowsOf()).map((row) => row['response_status'])).toEqual([402]);
  });

  it('is possible from within savepoints that nobody has ended', async () => {
    const client = await session();
    const request = await claimed(client, 'k');
    await client.query('savepoint a');
    await write(client);
    await client.query('savepoint b');
    await store.record(client, recordFor(request), false);
    expect(await effects()).toEqual(['done']);
    expect(await rowsOf()).toHaveLength(1);
  });

  it.each([
    ['a status out of range', { status: 600 }],
    ['a fingerprint that is none', { fingerprint: Buffer.alloc(31) }],
    ['a size that is not that of the body', { bodyBytes: 7 }],
    ['a time to live of less than nothing', { ttlMs: -1 }],
  ])('refuses %s, and the writes with it', async (_, overrides) => {
    const client = await session();
    const request = await claimed(client, 'k');
    await write(client);
    const error = await errorOf(store.record(client, recordFor(request, overrides), false));
    expect(sqlStateOf(error)).toBe('23514');
    await client.query('rollback');
    expect(await effects()).toEqual([]);
  });

  it('does not depend on how the session writes things down', async () => {
    const client = await session();
    await client.query(`set bytea_output = 'escape'; set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard';
      set timezone = 'Asia/Kolkata'; set standard_conforming_strings = off; set escape_string_warning = off;
      set extra_float_digits = -15; set backslash_quote = off`);
    const body = Buffer.from([0, 1, 39, 92, 127, 128, 255]);
    const before = Date.now();
    const request = await claimed(client, "it's \\ k");
    await store.record(client, recordFor(request, { body, bodyBytes: body.length, ttlMs: 3_600_000 }), false);
    const found = responseOf(await store.lookUp(client, { scope: '', key: "it's \\ k" }));
    expect(found).toMatchObject({ body, fingerprint: Buffer.alloc(32, 7) });
    expect(Math.abs(found.createdAt.getTime() - before)).toBeLessThan(60_000);
    const seconds = await valueOf(
      pool,
      `(select round(extract(epoch from expires_at - created_at))::int from idempotency_keys)`,
    );
    expect(seconds).toBe(3600);
  });
});

describe('find and forget', () => {
  const db: Queryable = { query: async (sql, parameters) => (await pool.query(sql, parameters)).rows };

  it('tell of a key what operators ask for', async () => {
    await complete('k', { path: '/payments?x=1' });
    await complete('large', { body: null, bodyBytes: 5_000_000_000 });
    const found = await store.find(db, { scope: '', key: 'k' });
    expect(found).toEqual({
      scope: '',
      key: 'k',
      state: 'completed',
      method: 'POST',
      path: '/payments?x=1',
      status: 201,
      bodyBytes: 8,
      bodyKept: true,
      createdAt: expect.any(Date),
      expiresAt: expect.any(Date),
    });
    expect(found!.expiresAt!.getTime() - found!.createdAt.getTime()).toBeGreaterThanOrEqual(59_999);
    expect(await store.find(db, { scope: '', key: 'large' })).toMatchObject({
      bodyBytes: 5_000_000_000,
      bodyKept: false,
    });
    expect(await store.find(db, { scope: 'x', key: 'k' })).toBeUndefined();
  });

  it('know the time whatever way the session writes it', async () => {
    await complete('k');
    const client = await session();
    const odd: Queryable = { query: async (sql, parameters) => (await client.query(sql, parameters)).rows };
    const expected = await store.find(db, { scope: '', key: 'k' });
    for (const style of ['SQL, DMY', 'German', 'Postgres, MDY']) {
      await client.query(`set datestyle = '${style}'; set timezone = 'America/St_Johns'`);
      expect(await store.find(odd, { scope: '', key: 'k' })).toEqual(expected);
    }
  });

  it('do not find, but do forget, what has expired', async () => {
    await complete('k');
    await backDate('k');
    expect(await store.find(db, { scope: '', key: 'k' })).toBeUndefined();
    expect(await store.countExpired(db)).toBe(1);
    expect(await store.forget(db, { scope: '', key: 'k' })).toBe(true);
    expect(await store.forget(db, { scope: '', key: 'k' })).toBe(false);
    expect(await rowsOf()).toEqual([]);
  });

  it('let the key be used again', async () => {
    await complete('k');
    await store.forget(db, { scope: '', key: 'k' });
    const { claimId } = await complete('k');
    expect((await rowsOf()).map((row) => row['claim_id'])).toEqual([claimId]);
  });

  it('know whether the table is there', async () => {
    expect(await store.tablesExist(db)).toBe(true);
    expect(await new KeyStore('nowhere').tablesExist(db)).toBe(false);
    expect(await new KeyStore('infra').tablesExist(db)).toBe(true);
  });
});

describe('a purge', () => {
  const queryable = (client: Pool | PoolClient): Queryable => ({
    query: async (sql, parameters) => (await client.query(sql, parameters)).rows,
  });

  /** `k1` has expired first. */
  async function expired(count: number): Promise<void> {
    await insertKeys(`'k' || n`, count, `clock_timestamp() - (1000000 - n) * interval '1 second'`);
  }

  async function insertKeys(key: string, count: number, expiresAt: string): Promise<void> {
    await pool.query(
      `insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id, response_status,
         response_headers, response_body, response_bytes, created_at, expires_at)
       select '', ${key}, decode(repeat('00', 32), 'hex'), 1, 'POST', '/', gen_random_uuid(), 201, '[]', '', 0,
         clock_timestamp() - interval '30 days', ${expiresAt}
       from generate_series(${count}, 1, -1) n`,
    );
  }

  const keys = async () => (await rowsOf()).map((row) => row['key']).toSorted();

  it('deletes the oldest first, no more than it was told, and nothing that is alive', async () => {
    await expired(5);
    await complete('alive');
    const db = queryable(pool);
    expect(await store.purgeBatch(db, 2)).toMatchObject({ deleted: 2, locked: false });
    expect(await keys()).toEqual(['alive', 'k3', 'k4', 'k5']);
    expect(await store.purgeBatch(db, 2)).toMatchObject({ deleted: 2, locked: false });
    expect(await store.purgeBatch(db, 2)).toMatchObject({ deleted: 1, locked: false });
    expect(await store.purgeBatch(db, 2)).toMatchObject({ deleted: 0, locked: false });
    expect(await keys()).toEqual(['alive']);
  });

  it('passes over rows that somebody has locked', async () => {
    await expired(4);
    const holder = await session();
    await holder.query('begin');
    await holder.query(`select from idempotency_keys where key in ('k1', 'k3') for update`);
    expect(await store.purgeBatch(queryable(pool), 10)).toMatchObject({ deleted: 2, locked: false });
    expect(await keys()).toEqual(['k1', 'k3']);
  });

  it('and a record of the same expired key do not get in each other’s way', async () => {
    await expired(1);
    const client = await session();
    const request = await claimed(client, 'k1');
    await store.purgeBatch(queryable(pool), 10);
    await store.record(client, recordFor(request), false);
    expect(await store.purgeBatch(queryable(pool), 10)).toMatchObject({ deleted: 0, locked: false });
    expect(await keys()).toEqual(['k1']);
  });

  it('leaves the work to the one that is at it', async () => {
    await expired(3);
    const [one, other] = [await session(), await session()];
    await one.query('begin');
    expect(await store.purgeBatch(queryable(one), 1)).toMatchObject({ deleted: 1, locked: false });
    expect(await store.purgeBatch(queryable(other), 10)).toMatchObject({ deleted: 0, locked: true });
    expect(await new KeyStore('infra').purgeBatch(queryable(other), 10)).toMatchObject({ deleted: 0, locked: false });
    await one.query('commit');
    expect(await store.purgeBatch(queryable(other), 10)).toMatchObject({ deleted: 2, locked: false });
  });

  it('goes on where the batch before it ended, also among rows of one instant, whatever the DateStyle', async () => {
    await expired(5);
    await pool.query(
      `update idempotency_keys set created_at = '2026-01-01Z', expires_at = '2026-01-02 03:04:05.678901Z'`,
    );
    const client = await session();
    await client.query(`set datestyle = 'German, DMY'; set timezone = 'Asia/Kathmandu'`);
    const first = await store.purgeBatch(queryable(client), 2);
    expect(first).toEqual({ deleted: 2, locked: false, reached: '2026-01-02 03:04:05.678901Z' });
    const second = await store.purgeBatch(queryable(client), 2, first);
    expect(second).toEqual(first);
    const third = await store.purgeBatch(queryable(client), 2, second);
    expect(third).toEqual({ ...first, deleted: 1 });
    expect(await store.purgeBatch(queryable(client), 2, third)).toEqual({ deleted: 0, locked: false, reached: null });
  });

  it('reads each index entry about once, also where a snapshot keeps those of deleted rows in it', async () => {
    await expired(500);
    await pool.query('analyze idempotency_keys');
    const snapshot = await session();
    await snapshot.query('begin isolation level repeatable read; select count(*) from idempotency_keys');
    const client = await session();
    const entriesRead = async (): Promise<number> => {
      await client.query('select pg_stat_force_next_flush()');
      const { rows } = await client.query<{ read: string }>(
        `select idx_tup_read as read from pg_stat_user_indexes where indexrelname = 'idempotency_keys_expires_at_idx'`,
      );
      return Number(rows[0]!.read);
    };
    await client.query('set enable_seqscan = off; set enable_bitmapscan = off');
    const before = await entriesRead();
    let batch: PurgedBatch | undefined;
    do {
      batch = await store.purgeBatch(queryable(client), 10, batch);
    } while (batch.deleted === 10);
    expect(await keys()).toEqual([]);
    const read = (await entriesRead()) - before;
    expect(read).toBeGreaterThanOrEqual(500);
    expect(read).toBeLessThan(1_500); // 13,250 where each batch begins at the start
  });

  it('by two at once deletes every row once', async () => {
    await expired(200);
    const purge = async (client: PoolClient): Promise<number> => {
      let total = 0;
      while ((await keys()).length > 0) total += (await store.purgeBatch(queryable(client), 7)).deleted;
      return total;
    };
    const totals = await Promise.all([await session(), await session()].map(purge));
    expect(totals[0]! + totals[1]!).toBe(200);
  });

  interface Plan {
    'Node Type': string;
    'Relation Name'?: string;
    'Index Name'?: string;
    'Actual Loops': number;
    'Actual Rows': number;
    Plans?: Plan[];
  }

  const allNodes = (plan: Plan): Plan[] => [plan, ...(plan.Plans ?? []).flatMap(allNodes)];

  /** The nodes of the executed plan that touch the table. */
  async function purgePlan(client: PoolClient): Promise<Plan[]> {
    let nodes: Plan[] = [];
    await store.purgeBatch(
      {
        query: async (sql, parameters) => {
          const explain = await client.query<{ 'QUERY PLAN': [{ Plan: Plan }] }>(
            `explain (analyze, format json) ${sql}`,
            parameters,
          );
          nodes = allNodes(explain.rows[0]!['QUERY PLAN'][0].Plan);
          return [{ deleted: 0, locked: false, reached: null }];
        },
      },
      100,
    );
    return nodes.filter((node) => node['Relation Name'] === 'idempotency_keys');
  }

  it('reads no more than its batch, by the index on the expiry, and nothing at all without its turn', async () => {
    await expired(20_000);
    await insertKeys(`'alive' || n`, 20_000, `clock_timestamp() + interval '1 day'`);
    await pool.query('analyze idempotency_keys');
    const [one, other] = [await session(), await session()];

    await other.query('begin');
    await store.purgeBatch(queryable(other), 1);
    const withoutTurn = await purgePlan(one);
    expect(withoutTurn.length).toBeGreaterThanOrEqual(3);
    expect(withoutTurn.filter((node) => node['Actual Rows'] * node['Actual Loops'] > 0)).toEqual([]);
    expect(withoutTurn.find((node) => node['Index Name'] === 'idempotency_keys_expires_at_idx')!['Actual Loops']).toBe(
      0,
    );
    await other.query('rollback');

    const withTurn = await purgePlan(one);
    const scans = withTurn.filter((node) => node['Node Type'].endsWith('Scan'));
    expect(scans.map((node) => [node['Node Type'], node['Index Name'], node['Actual Rows']])).toEqual(
      expect.arrayContaining([
        ['Index Scan', 'idempotency_keys_expires_at_idx', 100],
        ['Tid Scan', undefined, 100],
      ]),
    );
    expect(scans).toHaveLength(2);
  });
});

describe('on the wire', () => {
  it('a claim is one round trip and so is a record, whatever they carry, prepared yet or not', async () => {
    const proxy = await CountingProxy.start(database.url);
    undo.push(() => proxy.stop());
    const client = await session(proxy.pool);
    const count = (work: () => Promise<unknown>) => proxy.count(work);

    for (const [key, savepoint] of [
      ['first', false],
      ['second', false],
      ['third', true],
    ] as const) {
      const request = requestFor(key, { savepoint });
      expect(await count(() => store.claim(client, request))).toBe(1);
      const body = randomBytes(300_000);
      expect(
        await count(() => store.record(client, recordFor(request, { body, bodyBytes: body.length }), savepoint)),
      ).toBe(1);
    }
    expect(await count(() => store.claim(client, requestFor('first')))).toBe(1);
    expect(await count(() => store.rollback(client))).toBe(1);
    expect(await count(() => store.lookUp(client, { scope: '', key: 'first' }))).toBe(1);

    // The measure: what a transaction with one statement takes without the library.
    expect(
      await count(() =>
        client
          .query('begin')
          .then(() => write(client))
          .then(() => client.query('commit')),
      ),
    ).toBe(3);
  });

  it('a request takes two round trips beside its own statements, fewer than a transaction of TypeORM', async () => {
    const proxy = await CountingProxy.start(database.url);
    undo.push(() => proxy.stop());
    const dataSource = await new DataSource({ type: 'postgres', url: proxy.url, poolSize: 1 }).initialize();
    undo.push(() => dataSource.destroy());
    const insert = `insert into effects (label) values ('x')`;
    expect(await proxy.count(() => dataSource.transaction((manager) => manager.query(insert)))).toBe(3);
  });
});

describe('prepared statements', () => {
  const prepared = async (client: PoolClient) =>
    (await client.query<{ name: string }>(`select name from pg_prepared_statements where name like 'idempotency%'`))
      .rows;

  it('are all made by the first claim of a connection, and used from then on', async () => {
    const client = await session();
    await claimed(client, 'k');
    const names = (await prepared(client)).map(({ name }) => name);
    expect(new Set(names.map((name) => name.replace(/^idempotency_[0-9a-f]{12}_/, '')))).toEqual(
      new Set([
        'begin',
        'begin_ru',
        'begin_rc',
        'begin_rr',
        'begin_s',
        'claim',
        'look_up',
        'try_lock',
        'savepoint',
        'undo',
        'check',
        'insert',
        'commit',
        'rollback',
      ]),
    );
    await store.rollback(client);
    await claimed(client, 'k', { isolation: 'SERIALIZABLE', savepoint: true });
    expect(await prepared(client)).toHaveLength(names.length);
  });

  it('have names that no other connection has', async () => {
    const names = await Promise.all(
      [await session(), await session()].map(async (client) => {
        await store.claim(client, requestFor(randomUUID()));
        return (await prepared(client)).map(({ name }) => name);
      }),
    );
    expect(new Set(names.flat()).size).toBe(names[0]!.length + names[1]!.length);
  });

  it('that are lost make a claim fail that has done nothing, and are done without from then on', async () => {
    const [client, other] = [await session(), await session()];
    await complete('k');
    await claimed(client, 'first');
    await store.rollback(client);
    await claimed(other, 'x');
    await store.rollback(other);
    await client.query('deallocate all');

    const error = await errorOf(store.claim(client, requestFor('second')));
    expect(sqlStateOf(error)).toBe(INVALID_STATEMENT_NAME);
    expect(client.getTransactionStatus()).toBe('I');
    expect(runner.shouldRunAgain(error)).toBe(true);
    expect(runner.shouldRunAgain(new Error('anything else'))).toBe(false);

    await other.query('deallocate all');
    const request = requestFor('second', { savepoint: true });
    expect(await store.claim(other, request)).toEqual({ kind: 'claimed' });
    await write(other, 'undone');
    await store.record(other, recordFor(request), true);
    expect((await store.claim(other, requestFor('k'))).kind).toBe('completed');
    await store.rollback(other);
    expect(await prepared(other)).toEqual([]);
    expect(await effects()).toEqual([]);
  });

  it('that the handler has taken away make the record fail, and are done without from then on', async () => {
    const [client, other] = [await session(), await session()];
    const request = await claimed(client, 'k');
    await write(client);
    await client.query('deallocate all');
    const error = await errorOf(store.record(client, recordFor(request), false));
    expect(sqlStateOf(error)).toBe(INVALID_STATEMENT_NAME);
    await client.query('rollback');
    expect(await rowsOf()).toEqual([]);

    const again = await claimed(other, 'k');
    await other.query('deallocate all');
    await store.record(other, recordFor(again), false);
    expect(await rowsOf()).toHaveLength(1);
  });
});
