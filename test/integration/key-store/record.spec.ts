import { describe, expect, it } from '@jest/globals';
import {
  KeyAlreadyRecordedError,
  RecordRefusedError,
  TransactionEndedByHandlerError,
} from '../../../src/postgres/statements/store-errors.js';
import { keyStatementsOn } from '../../../src/postgres/statements/key-statements.js';
import { KeyStore } from '../../../src/postgres/statements/key-store.js';
import { isDefiniteFailure, sqlStateOf } from '../../../src/postgres/sqlstate.js';
import { waitFor } from '../../support/wait-for.js';
import { isInTransaction } from '../../support/pg-client-state.js';
import {
  backDate,
  claimed,
  complete,
  effects,
  errorOf,
  FOREIGN_KEY_VIOLATION,
  IN_FAILED_TRANSACTION,
  pool,
  recordFor,
  requestFor,
  responseOf,
  rowsOf,
  session,
  store,
  undo,
  valueOf,
  withAStore,
  write,
} from './lab.js';

withAStore();

describe('a record', () => {
  it("commits with the handler's writes, in one transaction", async () => {
    const client = await session();
    const request = await claimed(client, 'k');
    await write(client);
    expect(await effects()).toEqual([]);
    await store.record(client, recordFor(request), false);
    await expect(isInTransaction(client)).resolves.toBe(false);
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
      attention: null,
      trace_context: null,
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
    expect(error).toBeInstanceOf(RecordRefusedError);
    expect(sqlStateOf((error as Error).cause)).toBe('23514');
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

  it('answers with what is IMMUTABLE, as an index has to be, and as Citus demands of RETURNING', async () => {
    const [, returned] = keyStatementsOn('idempotency_keys').insert.text.split(/\breturning\b/);
    const indexed = pool.query(`begin; create index on infra.idempotency_keys ((${returned})); rollback`);
    await expect(indexed).resolves.toHaveLength(3);
  });
});
