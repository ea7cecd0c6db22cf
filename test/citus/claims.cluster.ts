import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Pool } from 'pg';
import type { LeaseResult } from '../../src/postgres/statements/lease-claim.js';
import { LeaseStore } from '../../src/postgres/statements/lease-store.js';
import { storedAs, type TestAttempt, testAttempt } from '../support/attempts.js';
import { CITUS_KINDS, OTHER_CITUS_KINDS } from '../support/citus.js';
import type { TestDatabase } from '../support/database.js';
import { databaseOf } from './shop.js';

const requestFor = (key: string): TestAttempt => testAttempt(key);

describe.each([...CITUS_KINDS, ...OTHER_CITUS_KINDS])('claims by lease in %s tables', (kind) => {
  let database: TestDatabase;
  let pool: Pool;
  let store: LeaseStore;

  beforeAll(async () => {
    database = await databaseOf(kind);
    pool = new Pool({ connectionString: database.url, max: 4 });
    store = new LeaseStore(undefined, undefined, undefined, true);
  });

  afterAll(async () => {
    await pool.end();
    await database.drop();
  });

  async function claim(request: TestAttempt): Promise<LeaseResult> {
    const client = await pool.connect();
    try {
      return await store.claim(client, storedAs(request));
    } finally {
      client.release();
    }
  }

  async function addStep(holder: TestAttempt, name: string): Promise<void> {
    const client = await pool.connect();
    try {
      await store.addStep(client, { ...holder, name, position: 1, attempt: 1, outcome: '{"returned":1}' });
    } finally {
      client.release();
    }
  }

  const steps = async () =>
    (await pool.query<{ name: string }>('select name from idempotency_steps order by name')).rows.map(
      ({ name }) => name,
    );

  it('are found again by the same request, whose answer was lost', async () => {
    const request = requestFor('lost');
    for (let tries = 0; tries < 2; tries++) {
      await expect(claim(request)).resolves.toMatchObject({ kind: 'claimed', attempt: 1, steps: [] });
    }
    await expect(claim(requestFor('lost'))).resolves.toMatchObject({ kind: 'unfinished' });
  });

  it('leave nothing of an operation that has expired, and all of one that goes on', async () => {
    for (const key of ['expired', 'resumed']) {
      const first = requestFor(key);
      await claim(first);
      await addStep(first, `step of ${key}`);
    }
    await pool.query(`update idempotency_keys set lease_expires_at = '2020-01-01' where key in ('expired', 'resumed')`);
    await pool.query(
      `update idempotency_keys set created_at = '2019-12-31', expires_at = '2020-01-02' where key = 'expired'`,
    );
    await expect(claim(requestFor('expired'))).resolves.toMatchObject({ kind: 'claimed', attempt: 1, steps: [] });
    await expect(claim(requestFor('resumed'))).resolves.toMatchObject({
      attempt: 2,
      tookOver: true,
      steps: [{ name: 'step of resumed' }],
    });
    await expect(steps()).resolves.toEqual(['step of resumed']);
  });
});
