import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Pool, type PoolClient } from 'pg';
import { AbandonedKeys } from '../../src/postgres/statements/abandoned-keys.js';
import { KeyStore } from '../../src/postgres/statements/key-store.js';
import { StoredKeys } from '../../src/postgres/statements/stored-keys.js';
import { FencedOffError } from '../../src/postgres/statements/store-errors.js';
import type { Holder, NewStep } from '../../src/postgres/statements/lease-statements.js';
import type { LeaseResult } from '../../src/postgres/statements/lease-claim.js';
import { LeaseStore } from '../../src/postgres/statements/lease-store.js';
import { storedAs, type TestAttempt, testAttempt } from '../support/attempts.js';
import { CountingProxy } from '../support/counting-proxy.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { waitFor } from '../support/wait-for.js';

const TTL_MS = 60_000;
const LEASE_MS = 30_000;

let database: TestDatabase;
let pool: Pool;
let store: LeaseStore;
let undo: (() => unknown)[];

beforeAll(async () => {
  database = await createTestDatabase();
  pool = new Pool({ connectionString: database.url, max: 30 });
  await pool.query('create table effects (label text)');
});

beforeEach(async () => {
  undo = [];
  store = new LeaseStore();
  await pool.query('truncate idempotency_keys, idempotency_steps, effects');
});

afterEach(async () => {
  for (const step of undo.toReversed()) await step();
});

afterAll(async () => {
  await pool.end();
  await database.drop();
});

async function session(from = pool): Promise<PoolClient> {
  const client = await from.connect();
  undo.push(() => client.release(true));
  return client;
}

const requestFor = (key: string, overrides: Partial<TestAttempt> = {}): TestAttempt =>
  testAttempt(key, { leaseMs: LEASE_MS, ttlMs: TTL_MS, ...overrides });

const recordFor = (holder: Holder) => ({
  ...storedAs(requestFor(holder.key, holder)),
  response: { status: 201, headers: [], body: Buffer.from('done'), bodyBytes: 4 },
});

const stepFor = (holder: Holder, name: string, position = 1): NewStep => ({
  ...holder,
  name,
  position,
  attempt: 1,
  outcome: '{"returned":1}',
});

const claim = async (request: TestAttempt): Promise<LeaseResult> => store.claim(await session(), storedAs(request));

async function claimed(key: string, overrides?: Partial<TestAttempt>): Promise<TestAttempt> {
  const request = requestFor(key, overrides);
  expect((await claim(request)).kind).toBe('claimed');
  return request;
}

const query = async (sql: string, values: unknown[] = []) =>
  (await pool.query<Record<string, unknown>>(sql, values)).rows;
const queryable = { query };
const expireLease = () => query(`update idempotency_keys set lease_expires_at = clock_timestamp()`);
const stepNames = async () =>
  (await query('select name from idempotency_steps order by position')).map((row) => row['name']);

/** Until a session waits for a lock of that kind. */
const waits = async (client: PoolClient, event: string): Promise<void> => {
  const { processID } = client as unknown as { processID: number };
  const isWaiting = `select from pg_stat_activity where pid = $1 and wait_event = $2`;
  await waitFor(async () => (await query(isWaiting, [processID, event])).length > 0, { what: `the ${event} lock` });
};

describe('a claim', () => {
  it('is committed, with a lease and a time to live that begins behind it', async () => {
    await claimed('k');
    const [row] = await query(
      `select attempt, execution_id = claim_id as first, response_status,
         round(extract(epoch from lease_expires_at - created_at) * 1000)::int as lease,
         round(extract(epoch from expires_at - lease_expires_at) * 1000)::int as ttl from idempotency_keys`,
    );
    expect(row).toEqual({ attempt: 1, first: true, response_status: null, lease: LEASE_MS, ttl: TTL_MS });
  });

  it('is found again by the same request, whose answer was lost', async () => {
    const request = await claimed('k');
    expect(await claim(request)).toEqual({
      kind: 'claimed',
      attempt: 1,
      steps: [],
      defaultIsolation: 'READ COMMITTED',
      tookOver: false,
    });
    expect(await claim(requestFor('k'))).toMatchObject({ kind: 'unfinished', claim: { state: 'running' } });
  });

  it('of twenty at once is given to one, in 50 rounds', async () => {
    const clients = await Promise.all(Array.from({ length: 20 }, () => session()));
    for (let round = 0; round < 50; round++) {
      const results = await Promise.all(
        clients.map((client) => store.claim(client, storedAs(requestFor(`k${round}`)))),
      );
      expect(results.filter(({ kind }) => kind === 'claimed')).toHaveLength(1);
    }
  });

  it('of twenty at once takes over once, in 50 rounds', async () => {
    const clients = await Promise.all(Array.from({ length: 20 }, () => session()));
    await claimed('k');
    for (let attempt = 2; attempt <= 51; attempt++) {
      await expireLease();
      const results = await Promise.all(clients.map((client) => store.claim(client, storedAs(requestFor('k')))));
      expect(results.filter(({ kind }) => kind === 'claimed')).toMatchObject([{ kind: 'claimed', attempt, steps: [] }]);
    }
  });

  it('takes over what was released or has expired, with its steps, and keeps the operation', async () => {
    const first = await claimed('k');
    await store.addStep(await session(), stepFor(first, 'a'));
    await store.release(await session(), first, TTL_MS);
    const step = { name: 'a', position: 1, outcome: { returned: 1 }, bytes: 14 };
    expect(await claim(requestFor('k'))).toMatchObject({ kind: 'claimed', attempt: 2, steps: [step] });
    await expireLease();
    expect(await claim(requestFor('k'))).toMatchObject({ kind: 'claimed', attempt: 3, steps: [step] });
    expect(await query('select execution_id from idempotency_keys')).toEqual([{ execution_id: first.claimId }]);
  });

  it('takes over nothing of another request, nor where a person has to decide', async () => {
    await claimed('k', { resumes: false });
    expect(await query('select expires_at::text from idempotency_keys')).toEqual([{ expires_at: 'infinity' }]);
    await expireLease();
    expect(await claim(requestFor('k', { resumes: false }))).toMatchObject({ claim: { state: 'interrupted' } });
    expect(await claim(requestFor('k', { fingerprint: Buffer.alloc(32) }))).toMatchObject({ kind: 'unfinished' });
    expect(await claim(requestFor('k', { fingerprintVersion: 2 }))).toMatchObject({ kind: 'unfinished' });
    expect(await claim(requestFor('k'))).toMatchObject({ kind: 'claimed', attempt: 2 });
  });

  it('begins anew where the key has expired', async () => {
    const first = await claimed('k');
    await store.addStep(await session(), stepFor(first, 'a'));
    await query(`update idempotency_keys set created_at = created_at - interval '1 day',
      lease_expires_at = clock_timestamp() - interval '1 hour', expires_at = clock_timestamp()`);
    const second = await claimed('k', { fingerprint: Buffer.alloc(32) });
    expect(await query('select attempt, execution_id from idempotency_keys')).toEqual([
      { attempt: 1, execution_id: second.claimId },
    ]);
    expect(await claim(second)).toMatchObject({ kind: 'claimed', attempt: 1, steps: [] });
  });

  it('respects a request in transaction mode, which has no row yet', async () => {
    const keys = new KeyStore();
    const client = await session();
    const running = storedAs(requestFor('k'));
    await keys.claim(client, running);
    expect(await claim(requestFor('k'))).toEqual({ kind: 'in flight' });
    await keys.rollback(client);
    await claimed('k');
    expect(await keys.claim(client, running)).toMatchObject({
      kind: 'unfinished',
    });
  });

  it('of a key that is taken leaves its row alone', async () => {
    const request = await claimed('k');
    const version = () => query('select xmin::text, xmax::text, ctid::text from idempotency_keys');
    const running = await version();
    await claim(requestFor('k'));
    expect(await version()).toEqual(running);
    await store.record(await session(), recordFor(request));
    const recorded = await version();
    expect((await claim(requestFor('k'))).kind).toBe('completed');
    expect(await version()).toEqual(recorded);
  });
});

describe('a holder that was replaced', () => {
  let former: TestAttempt;

  beforeEach(async () => {
    former = await claimed('k');
    await expireLease();
    await claimed('k');
  });

  it('can neither renew nor record nor release nor withdraw', async () => {
    const before = await query('select * from idempotency_keys');
    const client = await session();
    expect(await store.renew(client, former, LEASE_MS, TTL_MS, 1_000)).toBe(false);
    expect(await store.record(client, recordFor(former))).toBeUndefined();
    await store.release(client, former, TTL_MS);
    await store.withdraw(client, former);
    expect(await query('select * from idempotency_keys')).toEqual(before);
  });

  it('can add no step, alone or with its writes', async () => {
    await expect(store.addStep(await session(), stepFor(former, 'a'))).rejects.toThrow(FencedOffError);
    const client = await session();
    await store.begin(client, former, 'READ COMMITTED', 60_000);
    await client.query(`insert into effects values ('lost')`);
    await expect(store.commitStep(client, stepFor(former, 'a'))).rejects.toThrow(FencedOffError);
    await client.query('rollback');
    await expect(store.begin(await session(), former, 'SERIALIZABLE', 60_000)).rejects.toThrow(FencedOffError);
    expect([await stepNames(), await query('select * from effects')]).toEqual([[], []]);
  });
});

describe('a step', () => {
  it('may be offered twice', async () => {
    const holder = await claimed('k');
    const client = await session();
    await store.addStep(client, stepFor(holder, 'a'));
    await store.addStep(client, stepFor(holder, 'a'));
    expect(await stepNames()).toEqual(['a']);
  });

  it('keeps a takeover out until it is committed: the next attempt sees it', async () => {
    await query(`create or replace function wait_for_gate() returns trigger language plpgsql as
      $$ begin perform pg_advisory_xact_lock(42); return null; end $$`);
    await query(`create constraint trigger gate after insert on idempotency_steps deferrable initially deferred
      for each row execute function wait_for_gate()`);
    undo.push(() => query('drop trigger gate on idempotency_steps'));

    const holder = await claimed('k', { leaseMs: 100 });
    const [gate, client, taker] = [await session(), await session(), await session()];
    await gate.query('select pg_advisory_lock(42)');
    const added = store.addStep(client, stepFor(holder, 'a'));
    await waits(client, 'advisory');
    const hasExpired = 'select from idempotency_keys where lease_expires_at <= clock_timestamp()';
    await waitFor(async () => (await query(hasExpired)).length > 0, { what: 'the lease to expire' });
    const takeover = store.claim(taker, storedAs(requestFor('k')));
    await waits(taker, 'transactionid');
    await gate.query('select pg_advisory_unlock(42)');
    await added;
    expect(await takeover).toMatchObject({ kind: 'claimed', attempt: 2, steps: [{ name: 'a' }] });
  });

  it('is not kept when a deferred constraint refuses the writes', async () => {
    await query('create table if not exists referred (id int primary key)');
    await query('create table if not exists referring (id int references referred deferrable initially deferred)');
    const holder = await claimed('k');
    const client = await session();
    await store.begin(client, holder, 'READ COMMITTED', 60_000);
    await client.query('insert into referring values (1)');
    await expect(store.commitStep(client, stepFor(holder, 'a'))).rejects.toMatchObject({ code: '23503' });
    await client.query('rollback');
    expect(await stepNames()).toEqual([]);
  });

  it('goes with the record, and with a key that is no more', async () => {
    const [one, two, three] = [await claimed('one'), await claimed('two'), await claimed('three')];
    for (const holder of [one, two, three]) await store.addStep(await session(), stepFor(holder, holder.key));
    expect(await store.record(await session(), recordFor(one))).toBeInstanceOf(Date);
    expect(await stepNames()).toEqual(expect.arrayContaining(['two', 'three']));
    expect(await stepNames()).toHaveLength(2);
    await new StoredKeys(queryable).forget({ scope: '', key: 'two' });
    expect(await stepNames()).toEqual(['three']);
    await query(
      `update idempotency_keys set expires_at = clock_timestamp(), lease_expires_at = null where key = 'three'`,
    );
    expect(await claim(requestFor('three'))).toMatchObject({ kind: 'claimed', attempt: 1, steps: [] });
    expect(await stepNames()).toEqual([]);
  });

  it('stays with a key whose holder renews it while others think that it has expired', async () => {
    const holder = await claimed('k');
    await store.addStep(await session(), stepFor(holder, 'a'));
    await query(
      `update idempotency_keys set expires_at = clock_timestamp(), lease_expires_at = clock_timestamp() - interval '1 second'`,
    );
    const renewing = await session();
    await renewing.query('begin');
    await renewing.query(`update idempotency_keys set expires_at = clock_timestamp() + interval '1 hour',
      lease_expires_at = clock_timestamp() + interval '1 minute'`);
    const other = await session();
    const claiming = store.claim(other, storedAs(requestFor('k')));
    await waits(other, 'transactionid');
    await renewing.query('commit');
    expect(await claiming).not.toMatchObject({ kind: 'claimed' });
    expect(await stepNames()).toEqual(['a']);
  });
});

describe('on the wire', () => {
  it('claim, step, renewal and record are one round trip each', async () => {
    const proxy = await CountingProxy.start(database.url);
    undo.push(() => proxy.stop());
    const client = await session(proxy.pool);
    for (const key of ['first', 'prepared by now']) {
      const holder = requestFor(key);
      expect(await proxy.count(() => store.claim(client, storedAs(holder)))).toBe(1);
      expect(await proxy.count(() => store.addStep(client, stepFor(holder, 'a')))).toBe(1);
      expect(await proxy.count(() => store.renew(client, holder, LEASE_MS, TTL_MS, 1_000))).toBe(1);
      expect(await proxy.count(() => store.begin(client, holder, 'READ COMMITTED', 60_000))).toBe(1);
      expect(await proxy.count(() => store.commitStep(client, stepFor(holder, 'b', 2)))).toBe(1);
      expect(await proxy.count(() => store.record(client, recordFor(holder)))).toBe(1);
      expect(await proxy.count(() => store.claim(client, storedAs(requestFor(key))))).toBe(1);
    }
  });
});

describe('an operator', () => {
  it('resolves and releases what nobody holds, once', async () => {
    const response = { status: 200, headers: [], body: Buffer.from('by hand') };
    const newHolder = (): Holder => ({ scope: '', key: 'k', claimId: randomUUID() });
    const first = await claimed('k');
    await store.addStep(await session(), stepFor(first, 'a'));
    expect(await new AbandonedKeys(queryable).resolve(newHolder(), response, TTL_MS)).toBe(false);
    expect(await new AbandonedKeys(queryable).release(newHolder(), TTL_MS)).toBe(false);

    await expireLease();
    expect(await new AbandonedKeys(queryable).release(newHolder(), TTL_MS)).toBe(true);
    expect(await store.renew(await session(), first, LEASE_MS, TTL_MS, 1_000)).toBe(false);
    expect(await new AbandonedKeys(queryable).resolve(newHolder(), response, TTL_MS)).toBe(true);
    expect(await new AbandonedKeys(queryable).resolve(newHolder(), response, TTL_MS)).toBe(false);
    expect(await claim(requestFor('k'))).toMatchObject({ kind: 'completed', response: { body: response.body } });
    expect(await stepNames()).toEqual([]);
  });
});
