import { randomUUID } from 'node:crypto';
import { inspect } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Pool, type PoolClient } from 'pg';
import {
  FencedOffError,
  KeyAlreadyRecordedError,
  RecordRefusedError,
} from '../../src/postgres/statements/store-errors.js';
import { AbandonedKeys } from '../../src/postgres/statements/abandoned-keys.js';
import { ExpiredKeys, type PurgedBatch } from '../../src/postgres/statements/expired-keys.js';
import { KeyStore } from '../../src/postgres/statements/key-store.js';
import { LeaseStore } from '../../src/postgres/statements/lease-store.js';
import type { NewStep } from '../../src/postgres/statements/lease-statements.js';
import type { Queryable } from '../../src/postgres/queryable.js';
import { KEYS_TABLE, STEPS_TABLE } from '../../src/postgres/table-name.js';
import { storedAs, type TestAttempt, testAttempt } from '../support/attempts.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { childOf, TABLE_KINDS, turnTablesInto } from '../support/table-kinds.js';

const KEYS = 400;
const SECRET = 'a key, a response, an outcome';

/** A row's place (`ctid`) is its own only within one table, and an error names the partition: neither is an identity. */
describe.each(TABLE_KINDS)('the statements on %s', (kind) => {
  let database: TestDatabase;
  let pool: Pool;
  let client: PoolClient;
  let db: Queryable;
  const store = new KeyStore();
  const leases = new LeaseStore();

  beforeAll(async () => {
    database = await createTestDatabase();
    await turnTablesInto(kind, database.url);
    pool = new Pool({ connectionString: database.url });
    client = await pool.connect();
    db = { query: async (sql, parameters) => (await client.query(sql, parameters)).rows };
  });

  afterAll(async () => {
    client.release(true);
    await pool.end();
    await database.drop();
  });

  /** Partitions by themselves; with a child one half of the rows, each of which has the place of one in the parent. */
  const tablesOf = (table: string): string[] =>
    kind === 'an INHERITS child' ? [table, childOf(table)] : [table, table];

  /** Half of the keys have expired; each live one is a running operation with a step. */
  async function fill(): Promise<void> {
    await client.query(`truncate ${KEYS_TABLE}, ${STEPS_TABLE}`);
    for (const [half, table] of tablesOf(KEYS_TABLE).entries()) {
      await client.query(
        `insert into ${table} (scope, key, fingerprint, fingerprint_version, method, path, claim_id, execution_id,
           attempt, lease_expires_at, created_at, expires_at)
         select '', case when live then 'live ' else 'expired ' end || n, sha256('x'), 1, 'POST', '/', id, id, 1,
           moment - interval '1 second', moment - interval '2 days', moment
         from (select n, live, md5(n::text)::uuid as id, clock_timestamp() + case when live then interval '1 hour' else -n * interval '1 second' end as moment
               from (select n, (n + n / 2) % 2 = 0 as live from generate_series(1, ${KEYS}) as n where n % 2 = ${half}) as numbers) as rows`,
      );
    }
    for (const [half, table] of tablesOf(STEPS_TABLE).entries()) {
      await client.query(
        `insert into ${table} (execution_id, name, position, attempt, outcome, scope, key, created_at)
         select execution_id, 'charge', 1, 1, '{}', scope, key, created_at from ${KEYS_TABLE}
         where split_part(key, ' ', 2)::int % 2 = ${half} order by split_part(key, ' ', 2)::int`,
      );
    }
  }

  async function left(table: string): Promise<{ live: number; expired: number }> {
    const { rows } = await client.query<{ live: number; expired: number }>(
      `select count(*) filter (where key like 'live%')::int4 as live,
         count(*) filter (where key like 'expired%')::int4 as expired from ${table}`,
    );
    return rows[0]!;
  }

  async function untilShort(batchSize: number, purge: () => Promise<number>): Promise<number> {
    let total = 0;
    let deleted: number;
    do {
      deleted = await purge();
      total += deleted;
    } while (deleted >= batchSize);
    return total;
  }

  it.each([7, 1_000])(
    'purge all keys that have expired with their steps, and no others, by batches of %d',
    async (batchSize) => {
      await fill();
      const alive = await left(KEYS_TABLE);
      expect(alive).toEqual({ live: KEYS / 2, expired: KEYS / 2 });

      let batch: PurgedBatch | undefined;
      const purged = await untilShort(batchSize, async () => {
        batch = await new ExpiredKeys(db).purgeBatch(batchSize, batch);
        return batch.deleted;
      });
      expect(purged).toBe(KEYS / 2);
      expect(await left(KEYS_TABLE)).toEqual({ live: KEYS / 2, expired: 0 });
      expect(await left(STEPS_TABLE)).toEqual({ live: KEYS / 2, expired: 0 });
    },
  );

  const identity = (): TestAttempt => testAttempt(`${SECRET} ${randomUUID()}`);

  const responseOf = (attempt: TestAttempt) => ({
    ...storedAs(attempt),
    response: { status: 201, headers: [], body: Buffer.from(SECRET), bodyBytes: SECRET.length },
  });

  /** On a connection of its own, which is destroyed as the library would. */
  async function failureOf(work: (session: PoolClient) => Promise<unknown>): Promise<Error> {
    const session = await pool.connect();
    try {
      await session.query('set log_parameter_max_length_on_error = -1');
      return await work(session).then(
        () => Promise.reject(new Error('it did not fail')),
        (error: Error) => error,
      );
    } finally {
      session.release(true);
    }
  }

  it('know a key that another request has recorded first, and tell nothing of either', async () => {
    const request = identity();
    const error = await failureOf(async (session) => {
      await store.claim(session, storedAs(request));
      await client.query(
        `insert into ${KEYS_TABLE} (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
           response_status, response_headers, response_body, response_bytes, created_at, expires_at)
         values ('', $1, sha256('x'), 1, 'POST', '/', gen_random_uuid(), 201, '[]', '', 0, now(), now() + interval '1 hour')`,
        [request.key],
      );
      await store.record(session, responseOf(request), false);
    });
    expect(error).toBeInstanceOf(KeyAlreadyRecordedError);
    expect(inspect(error, { depth: 9 })).not.toContain(SECRET);
    expect(inspect(error, { depth: 9 })).not.toContain(Buffer.from(SECRET).toString('hex'));
  });

  const stepOf = (request: TestAttempt): NewStep => ({
    ...request,
    name: 'charge',
    position: 1,
    attempt: 1,
    outcome: JSON.stringify({ returned: SECRET }),
  });

  it.each([
    ['a step', (session: PoolClient, step: NewStep) => leases.addStep(session, step)],
    ['a step with its writes', addInTransaction],
  ])('know a holder that was fenced off by %s, and tell nothing of it', async (_, add) => {
    const error = await failureOf((session) => add(session, stepOf(identity())));
    expect(error).toBeInstanceOf(FencedOffError);
    expect(inspect(error, { depth: 9 })).not.toContain(SECRET);
  });

  async function addInTransaction(session: PoolClient, step: NewStep): Promise<void> {
    await leases.begin(session, step, 'READ COMMITTED', 60_000);
    await leases.commitStep(session, step);
  }

  it('tell nothing of what the server refused to keep', async () => {
    const [request, held] = [identity(), identity()];
    await client.query(`alter table ${KEYS_TABLE} add constraint full_disk check (response_status is null) not valid`);
    try {
      const recorded = await failureOf(async (session) => {
        await store.claim(session, storedAs(request));
        await store.record(session, responseOf(request), false);
      });
      expect((await leases.claim(client, storedAs(held))).kind).toBe('claimed');
      const leaseRecorded = await failureOf((session) => leases.record(session, responseOf(held)));
      await client.query(`update ${KEYS_TABLE} set lease_expires_at = null where key = $1`, [held.key]);
      const body = Buffer.from(SECRET);
      const resolved = await failureOf((session) =>
        new AbandonedKeys(session).resolve(held, { status: 200, headers: [], body }, 60_000),
      );
      expect(recorded).toBeInstanceOf(RecordRefusedError);
      for (const error of [recorded.cause, leaseRecorded, resolved]) {
        expect(error).toMatchObject({ code: '23514', constraint: 'full_disk' });
        expect(inspect(error, { depth: 9 })).not.toContain(SECRET);
        expect(inspect(error, { depth: 9 })).not.toContain(body.toString('hex'));
      }
    } finally {
      await client.query(`alter table ${KEYS_TABLE} drop constraint full_disk`);
    }
  });
});
