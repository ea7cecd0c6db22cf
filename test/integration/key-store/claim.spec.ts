import { randomBytes } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import { KeyStore } from '../../../src/postgres/statements/key-store.js';
import type { HeaderLine } from '../../../src/protocol/response.js';
import { waitFor } from '../../support/wait-for.js';
import { isInTransaction } from '../../support/pg-client-state.js';
import {
  backDate,
  claimed,
  complete,
  effects,
  pool,
  recordFor,
  requestFor,
  responseOf,
  rowsOf,
  session,
  store,
  valueOf,
  withAStore,
  write,
} from './lab.js';

withAStore();

describe('a claim', () => {
  it('begins a transaction and writes nothing', async () => {
    const client = await session();
    await claimed(client, 'k');
    await expect(isInTransaction(client)).resolves.toBe(true);
    expect(await valueOf(client, 'pg_current_xact_id_if_assigned()')).toBeNull();
    expect(await rowsOf()).toEqual([]);
  });

  it('finds the key in flight while another session has it, and free when that one has rolled back', async () => {
    const [first, second] = [await session(), await session()];
    await claimed(first, 'k');
    expect(await store.claim(second, requestFor('k'))).toEqual({ kind: 'in flight' });
    await store.rollback(second);
    await expect(isInTransaction(second)).resolves.toBe(false);

    await store.rollback(first);
    await expect(isInTransaction(first)).resolves.toBe(false);
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
    const headers: HeaderLine[] = [
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
      expiresAt: expect.any(Date),
    };
    const result = await store.claim(client, requestFor('k'));
    expect(result).toEqual({ kind: 'completed', response: expected });
    await store.rollback(client);
    const found = responseOf(await store.lookUp(client, { scope: '', key: 'k' }));
    expect(found).toEqual(expected);
    expect(Math.abs(found.createdAt.getTime() - before)).toBeLessThan(60_000);
    await expect(isInTransaction(client)).resolves.toBe(false);
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
