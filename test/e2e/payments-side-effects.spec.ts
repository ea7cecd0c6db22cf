import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Client } from 'pg';
import { startFakeProvider, type FakeProvider } from '../../examples/payments/provider/fake-provider.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { queryOn } from '../support/empty-database.js';
import { send as sendTo, type Answer, type Json } from '../support/json-api.js';
import { startPaymentsExample, type PaymentsExample } from '../support/payments-example.js';
import { openRequest } from '../support/raw-http.js';
import { waitFor } from '../support/wait-for.js';

// Some tests start an application, next to other test files that do the same.
jest.setTimeout(120_000);

/** The workers of the queue have some now and then. */
const OPEN_TRANSACTIONS = `
  select state, query from pg_stat_activity
  where datname = current_database() and state like 'idle in transaction%' and application_name <> 'pgboss'`;

interface ProviderStats {
  calls: number;
  sessions: number;
}

describe.each(['express', 'fastify'])('the example’s effects outside of its transactions, on %s', (adapter) => {
  let database: TestDatabase;
  /** In this process, so that it outlives the example. */
  let provider: FakeProvider;
  let statsBefore: ProviderStats;
  /** Another for each test: the provider would have the session of the last one. */
  let key: string;
  let example: PaymentsExample;
  let isKilled = false;

  beforeAll(async () => {
    database = await createTestDatabase();
    provider = await startFakeProvider();
    await start();
  });

  beforeEach(async () => {
    statsBefore = await allStats();
    key = randomUUID();
  });

  afterEach(async () => {
    await switchProvider({ slow_ms: 0, fail: 0, drop: 0 });
    if (isKilled) await start();
    for (const table of ['idempotency_keys', 'idempotency_steps', 'verification_sessions', 'payouts', 'pgboss.job']) {
      await query(`delete from ${table}`);
    }
  });

  afterAll(async () => {
    await example.end('SIGTERM');
    await provider.stop();
    await database.drop();
  });

  async function start(): Promise<void> {
    const environment = { ADAPTER: adapter, DATABASE_URL: database.url, PROVIDER_URL: provider.url };
    example = await startPaymentsExample(environment);
    isKilled = false;
  }

  async function kill(): Promise<void> {
    isKilled = true;
    await example.end('SIGKILL');
  }

  const send = (method: string, path: string, withKey?: string, body?: object): Promise<Answer> =>
    sendTo(example.port, method, path, withKey, body);
  const query = (sql: string) => queryOn<Json>(database.url, sql);

  const onProvider = (method: string, path: string, body?: object) =>
    sendTo(Number(new URL(provider.url).port), method, path, undefined, body);
  const switchProvider = (switches: object) => onProvider('POST', '/switches', switches);
  const allStats = async () => (await onProvider('GET', '/stats')).json as unknown as ProviderStats;

  /** What the provider was asked and did since the test began. */
  async function providerStats(): Promise<ProviderStats> {
    const { calls, sessions } = await allStats();
    return { calls: calls - statsBefore.calls, sessions: sessions - statsBefore.sessions };
  }

  describe('POST /verification/sessions', () => {
    const BODY = { user_id: 'user_1', workflow_id: 'kyc' };
    const open = (body: object = BODY) => send('POST', '/verification/sessions', key, body);

    /** One row and one session at the provider: those that the answer tells of. */
    async function expectOneEffect({ status, json }: Answer): Promise<void> {
      expect(status).toBe(201);
      expect(json).toEqual({
        session_id: expect.any(String),
        ...BODY,
        provider_session_id: expect.any(String),
        url: `https://verify.example/${String(json['provider_session_id'])}`,
        status: 'PENDING',
        history: ['CREATED', 'PENDING'],
        created_at: expect.stringMatching(/Z$/),
      });
      expect(await query('select id, provider_session_id from verification_sessions')).toEqual([
        { id: json['session_id'], provider_session_id: json['provider_session_id'] },
      ]);
      expect((await send('GET', `/verification/sessions/${String(json['session_id'])}`)).json).toEqual(json);
      expect(await providerStats()).toMatchObject({ sessions: 1 });

      const retry = await open();
      expect(retry).toMatchObject({ status: 201, replayed: true });
      expect(retry.json).toEqual(json);
    }

    /** However long the example takes to start. */
    const leaseEndsIn = (interval: string) =>
      query(`update idempotency_keys set lease_expires_at = statement_timestamp() + interval '${interval}'`);

    /** For an answer that never comes. */
    const openOnly = () =>
      openRequest(example.port, {
        method: 'POST',
        path: '/verification/sessions',
        headers: [
          ['Content-Type', 'application/json'],
          ['Idempotency-Key', key],
        ],
        body: JSON.stringify(BODY),
      });

    it('calls the provider once for a request and its retries, and refuses another under the same key', async () => {
      const first = await open();
      expect(first.replayed).toBe(false);
      await expectOneEffect(first);
      expect((await open({ ...BODY, workflow_id: 'other' })).status).toBe(422);
      expect((await send('POST', '/verification/sessions', 'invalid', { user_id: 'user_1' })).status).toBe(400);
      expect(await providerStats()).toEqual({ calls: 1, sessions: 1 });
      expect(example.errors()).toBe('');
    });

    it('has one session of a provider that acted and dropped the connection', async () => {
      await switchProvider({ drop: 2 });
      expect((await open()).status).toBe(502);
      expect((await open()).status).toBe(502);
      await expectOneEffect(await open());
      expect(await providerStats()).toEqual({ calls: 3, sessions: 1 });
    });

    it('goes on with the row that it has when the provider is back', async () => {
      await switchProvider({ fail: 1 });
      expect((await open()).status).toBe(502);
      const rows = await query('select id, status from verification_sessions');
      expect(rows).toEqual([{ id: expect.any(String), status: 'CREATED' }]);
      expect(await providerStats()).toEqual({ calls: 1, sessions: 0 });

      const retry = await open();
      expect(retry.json['session_id']).toBe(rows[0]!['id']);
      await expectOneEffect(retry);
    });

    it('waits for the provider without a transaction, and has one session when it is killed then', async () => {
      await switchProvider({ slow_ms: 60_000 });
      await openOnly();
      await waitFor(async () => (await providerStats()).sessions === 1, { what: 'the provider to act' });
      expect((await open()).status).toBe(409);
      expect((await open({ ...BODY, workflow_id: 'other' })).status).toBe(422);
      expect(await query(OPEN_TRANSACTIONS)).toEqual([]);

      await kill();
      await leaseEndsIn('1 hour');
      await switchProvider({ slow_ms: 0 });
      await start();
      expect((await open()).status).toBe(409);
      await leaseEndsIn('0 s');
      await expectOneEffect(await open());
      expect(await providerStats()).toEqual({ calls: 2, sessions: 1 });
    });

    it('does not call the provider again when it is killed after the answer was stored', async () => {
      await switchProvider({ fail: 1 });
      expect((await open()).status).toBe(502);
      const blocker = new Client(database.url);
      await blocker.connect();
      await blocker.query('begin');
      await blocker.query('select from verification_sessions for update'); // where the result is to be written
      await openOnly();
      const stored = `select from idempotency_steps where name = 'call provider'`;
      await waitFor(async () => (await query(stored)).length, { what: 'the answer to be stored' });
      await kill();
      await blocker.end();

      await start();
      await leaseEndsIn('0 s');
      await expectOneEffect(await open());
      expect(await providerStats()).toEqual({ calls: 2, sessions: 1 });
    });
  });

  describe('POST /webhooks/verification', () => {
    const deliver = (event: object) => send('POST', '/webhooks/verification', undefined, event);

    async function openSession() {
      const body = { user_id: 'user_1', workflow_id: 'kyc' };
      const { json } = await send('POST', '/verification/sessions', key, body);
      return {
        id: json['provider_session_id'],
        history: async () => {
          const answer = await send('GET', `/verification/sessions/${String(json['session_id'])}`);
          return answer.json['history'];
        },
      };
    }

    it('acts once on an event, however often it is delivered, and again on another', async () => {
      // The event's id is the very key that the session was opened with: theirs and ours do not meet.
      const session = await openSession();
      const event = { event_id: key, session_id: session.id, status: 'APPROVED' };
      expect(await deliver({ ...event, attempt: 1 })).toMatchObject({ status: 204, replayed: false });
      expect(await deliver({ ...event, attempt: 2 })).toMatchObject({ status: 204, replayed: true });
      expect(await session.history()).toEqual(['CREATED', 'PENDING', 'APPROVED']);

      expect(await deliver({ ...event, event_id: `${key}-2`, status: 'DECLINED' })).toMatchObject({ status: 204 });
      expect(await session.history()).toEqual(['CREATED', 'PENDING', 'APPROVED', 'DECLINED']);
    });

    it('acts once on an event that is delivered several times at once', async () => {
      const session = await openSession();
      const event = { event_id: key, session_id: session.id, status: 'DECLINED' };
      const answers = await Promise.all(Array.from({ length: 5 }, () => deliver(event)));
      expect(answers.filter(({ status, replayed }) => status === 204 && !replayed)).toHaveLength(1);
      expect(answers.filter(({ status, replayed }) => (status === 204 && replayed) || status === 409)).toHaveLength(4);
      expect(await session.history()).toEqual(['CREATED', 'PENDING', 'DECLINED']);
    });

    it('acts on a later delivery of an event that came too early', async () => {
      const event = { event_id: key, session_id: 'not there yet', status: 'APPROVED' };
      expect((await deliver(event)).status).toBe(404);
      const session = await openSession();
      expect(await deliver({ ...event, session_id: session.id })).toMatchObject({ status: 204, replayed: false });
      expect(await session.history()).toEqual(['CREATED', 'PENDING', 'APPROVED']);
    });

    it('refuses an event without an id, or that says nothing', async () => {
      for (const event of [{ session_id: 's', status: 'APPROVED' }, { event_id: 7 }, { event_id: key }]) {
        expect((await deliver(event)).status).toBe(400);
      }
    });
  });

  describe('POST /payouts', () => {
    const PAYOUT = { amount: 1000, currency: 'EUR', destination: 'acct_1' };
    const payOut = (search = '') => send('POST', `/payouts${search}`, key, PAYOUT);

    it('answers 202 with a job, the same to every retry, and the job is done once', async () => {
      const first = await payOut();
      expect(first).toMatchObject({ status: 202, json: { ...PAYOUT, status: 'PENDING' }, replayed: false });
      expect(first.location).toBe(`/jobs/${String(first.json['job_id'])}`);

      const isDone = async () => (await send('GET', first.location!)).json['state'] === 'completed';
      await waitFor(isDone, { what: 'the job to be done' });
      const { job_id: _, ...payout } = first.json;
      expect((await send('GET', '/payouts')).json).toEqual([{ ...payout, status: 'PAID' }]);

      const retry = await payOut();
      expect(retry).toMatchObject({ status: 202, replayed: true, location: first.location });
      expect(retry.response.body).toEqual(first.response.body);
      expect(await query('select id from pgboss.job')).toEqual([{ id: first.json['job_id'] }]);
      expect((await send('POST', '/payouts', key, { ...PAYOUT, amount: 1 })).status).toBe(422);
      expect(example.errors()).toBe('');
    });

    it('enqueues the job in the transaction of the payout', async () => {
      await payOut();
      // Both are `now()`, to the microsecond, which is the time that a transaction began.
      const sql = 'select job.created_on = payouts.created_at as same from pgboss.job, payouts';
      expect(await query(sql)).toEqual([{ same: true }]);
    });

    it('leaves neither payout nor job when it fails, and the key is usable', async () => {
      expect((await payOut('?fail=after-write')).status).toBe(500);
      expect(await query('select id from pgboss.job')).toEqual([]);
      expect(await query('select id from payouts')).toEqual([]);
      expect(await payOut()).toMatchObject({ status: 202, replayed: false });
    });

    it('knows nothing of a job that there is not', async () => {
      expect((await send('GET', '/jobs/1')).status).toBe(400);
      expect((await send('GET', '/jobs/00000000-0000-4000-8000-000000000000')).status).toBe(404);
    });
  });
});
