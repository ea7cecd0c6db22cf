import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, expect } from '@jest/globals';
import { Client, type Pool, type PoolClient } from 'pg';
import { DataSource } from 'typeorm';
import { AmbientTransaction } from '../../../src/postgres/ambient/ambient-transaction.js';
import { AmbientTransactions } from '../../../src/postgres/ambient/ambient-transactions.js';
import type { DatabaseConnection } from '../../../src/postgres/database-connection.js';
import { KeyStore } from '../../../src/postgres/statements/key-store.js';
import { OwnedTransaction } from '../../../src/postgres/owned-transaction.js';
import { storedAs, testAttempt } from '../../support/attempts.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { pendingQueries } from '../../support/pg-client-state.js';
import { waitFor } from '../../support/wait-for.js';
import { Auditor, EffectRepository, ENTITIES } from './entities.js';

export let database: TestDatabase;
export let dataSource: DataSource;
export let transactions: AmbientTransactions;
export let custom: EffectRepository;

/** Sees what is committed. */
export let observer: Client;
const store = new KeyStore();

/** Statements that were handed to a client which had not answered the one before: what pg 9 will refuse. */
let overlaps: string[];

/** Connections that were taken out of the pool. */
export let taken: number;

/** Requests that a failed test has left open. */
export const open = new Set<Request>();

/** An aware DataSource for the file; after each test nothing may be left of its requests. */
export function withTransactions(): void {
  beforeAll(async () => {
    database = await createTestDatabase();
    dataSource = new DataSource({
      type: 'postgres',
      url: database.url,
      entities: ENTITIES,
      subscribers: [Auditor],
      cache: true,
      synchronize: true,
      poolSize: 4,
    });
    custom = new EffectRepository(dataSource); // before the library is there, as a provider may be
    await dataSource.initialize();
    watch(poolOf(dataSource));
    transactions = new AmbientTransactions(dataSource);
    observer = new Client(database.url);
    await observer.connect();
  });

  beforeEach(async () => {
    overlaps = [];
    await observer.query('truncate effects, authors, books, letters, shelves, shelves_closure, idempotency_keys');
    await observer.query(`insert into authors (name) values ('Ada')`);
    taken = 0;
  });

  afterEach(async () => {
    for (const request of open) request.abort();
    await expectNothingLeft();
  });

  afterAll(async () => {
    await observer.end();
    await dataSource.destroy();
    await database.drop();
  });
}

export function countAnew(): void {
  taken = 0;
}

async function expectNothingLeft(): Promise<void> {
  expect(overlaps).toEqual([]);
  const pool = poolOf(dataSource);
  await waitFor(() => pool.idleCount === pool.totalCount, { what: 'all connections to be back' });
  await waitFor(async () => (await busySessions()) === 0, { what: 'all sessions to be outside of a transaction' });
}

async function busySessions(): Promise<number> {
  const { rowCount } = await observer.query(
    `select from pg_stat_activity where datname = $1 and state <> 'idle' and pid <> pg_backend_pid() and backend_type = 'client backend'`,
    [database.name],
  );
  return rowCount!;
}

function poolOf({ driver }: DataSource): Pool {
  return (driver as unknown as { master: Pool }).master;
}

function watch(pool: Pool): void {
  const seen = new WeakSet<PoolClient>();
  pool.on('acquire', (client) => {
    taken++;
    if (seen.has(client)) return;
    seen.add(client);
    const query = client.query.bind(client) as (...given: unknown[]) => unknown;
    Object.assign(client, {
      query: (...given: unknown[]) => {
        if (pendingQueries(client).length > 0) overlaps.push(String(given[0]));
        return query(...given);
      },
    });
  });
}

export interface Request {
  transaction: AmbientTransaction;
  run<T>(work: () => T): T;
  commit(): Promise<void>;
  rollBack(): Promise<void>;
  /** As a time limit does: whatever the connection is busy with. */
  abort(): void;
}

/** What TransactionClaims and Claim do, without the response around it. */
export async function claim(using: AmbientTransactions = transactions, isolation?: 'SERIALIZABLE'): Promise<Request> {
  const connection: DatabaseConnection = await using.connect();
  const attempt = { ...storedAs(testAttempt(randomUUID())), isolation };
  const outcome = await store.claim(connection.client, attempt);
  expect(outcome).toEqual({ kind: 'claimed' });
  const owned = new OwnedTransaction(connection, store);
  const transaction = new AmbientTransaction(using, owned, isolation ?? 'READ COMMITTED');
  const response = { status: 201, headers: [], body: Buffer.from('ok'), bodyBytes: 2 };
  const over = (): void => void open.delete(claimed);
  const claimed: Request = {
    transaction,
    run: (work) => transaction.run(work),
    commit: async () => {
      const answer = await transaction.commit(async (client) => {
        await store.record(client, { ...attempt, response }, false);
      });
      over();
      if (answer.kind !== 'committed') throw answer.error;
    },
    rollBack: async () => {
      await transaction.rollBack();
      over();
    },
    abort: () => {
      transaction.abort(new Error('aborted'));
      over();
    },
  };
  open.add(claimed);
  return claimed;
}

/** One request from the claim to the COMMIT. */
export async function inRequest<T>(work: (request: Request) => Promise<T>): Promise<T> {
  const request = await claim();
  let result: T;
  try {
    result = await request.run(() => work(request));
  } catch (error) {
    await request.rollBack();
    throw error;
  }
  await request.commit();
  return result;
}

export async function effects(): Promise<string[]> {
  const { rows } = await observer.query<{ label: string }>('select label from effects order by id');
  return rows.map(({ label }) => label);
}

export async function keys(): Promise<number> {
  const { rows } = await observer.query<{ count: number }>('select count(*)::int as count from idempotency_keys');
  return rows[0]!.count;
}

/** All that the paths write, as anybody else sees it. */
export async function everything(): Promise<unknown> {
  const { rows } = await observer.query<{ all: unknown }>(`select jsonb_build_object(
    'effects', (select jsonb_agg(label order by id) from effects),
    'authors', (select jsonb_agg(jsonb_build_array(name, prizes, deleted_at is not null) order by id)
                from (select *, "deletedAt" as deleted_at from authors) a),
    'books', (select jsonb_agg(title order by id) from books),
    'letters', (select jsonb_agg(text order by id) from letters),
    'shelves', (select jsonb_agg(name order by id) from shelves),
    'closure', (select count(*) from shelves_closure)) as all`);
  return rows[0]!.all;
}
