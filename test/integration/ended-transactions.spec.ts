import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Pool, type PoolClient } from 'pg';
import { KeyStore } from '../../src/postgres/statements/key-store.js';
import { TransactionEndedByHandlerError } from '../../src/postgres/statements/store-errors.js';
import { LeaseStore } from '../../src/postgres/statements/lease-store.js';
import { storedAs, testAttempt } from '../support/attempts.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';

/** Whatever ends the transaction that was begun, and whatever is begun behind it: what is recorded is in no other. */
describe('a transaction that was ended from inside', () => {
  let database: TestDatabase;
  let pool: Pool;
  let client: PoolClient;
  const store = new KeyStore();
  const leases = new LeaseStore();

  beforeAll(async () => {
    database = await createTestDatabase();
    pool = new Pool({ connectionString: database.url });
    await pool.query('create table effects (label text)');
  });

  beforeEach(async () => {
    client = await pool.connect();
  });

  afterEach(async () => {
    client.release(true);
    await pool.query('truncate idempotency_keys, idempotency_steps, effects');
  });

  afterAll(async () => {
    await pool.end();
    await database.drop();
  });

  const newRequest = () => testAttempt('k');

  const RESPONSE = { status: 201, headers: [], body: Buffer.from('done'), bodyBytes: 4 };

  async function recordAfter(sql: string): Promise<unknown> {
    const request = newRequest();
    await store.claim(client, storedAs(request));
    await client.query(`insert into effects values ('done')`);
    await client.query(sql);
    return store.record(client, { ...storedAs(request), response: RESPONSE }, false);
  }

  async function commitStepAfter(sql: string): Promise<unknown> {
    const request = newRequest();
    await leases.claim(client, storedAs(request));
    await leases.begin(client, request, 'READ COMMITTED', 60_000);
    await client.query(`insert into effects values ('done')`);
    await client.query(sql);
    return leases.commitStep(client, { ...request, name: 'only', position: 1, attempt: 1, outcome: '{}' });
  }

  const stored = async () => {
    const { rows } = await pool.query<{ count: number }>(
      `select (select count(*) from idempotency_steps)::int4
         + (select count(*) from idempotency_keys where response_status is not null)::int4 as count`,
    );
    return rows[0]!.count;
  };

  it.each([
    'commit',
    'rollback',
    'commit; begin',
    'rollback; begin',
    'commit and chain',
    'rollback and chain',
    'reset all; commit and chain',
  ])('by %s is not taken for its own', async (sql) => {
    for (const endsAfter of [recordAfter, commitStepAfter]) {
      await expect(endsAfter(sql)).rejects.toBeInstanceOf(TransactionEndedByHandlerError);
      expect(await stored()).toBe(0);
      client.release(true);
      client = await pool.connect();
      await pool.query('truncate idempotency_keys');
    }
  });

  it.each([
    'reset all',
    'discard plans',
    'savepoint s; reset all; release savepoint s',
    `set local timezone = 'Asia/Tokyo'`,
  ])('is told from one in which somebody ran %s', async (sql) => {
    await recordAfter(sql);
    expect(await stored()).toBe(1);
    await pool.query('truncate idempotency_keys');
    await commitStepAfter(sql);
    expect(await stored()).toBe(1);
  });
});
