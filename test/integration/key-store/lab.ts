import { afterAll, afterEach, beforeAll, beforeEach, expect } from '@jest/globals';
import { Pool, type PoolClient } from 'pg';
import { type ClaimAttempt, KeyStore } from '../../../src/postgres/statements/key-store.js';
import type { FoundKey } from '../../../src/postgres/statements/shared-statements.js';
import type { NewRecord } from '../../../src/protocol/request.js';
import type { StoredResponse } from '../../../src/protocol/response.js';
import { StatementPreparation } from '../../../src/postgres/statement-preparation.js';
import { storedAs, type TestAttempt, testAttempt } from '../../support/attempts.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';

export const IN_FAILED_TRANSACTION = '25P02';
export const INVALID_STATEMENT_NAME = '26000';
export const FOREIGN_KEY_VIOLATION = '23503';

export let database: TestDatabase;
export let pool: Pool;
export let preparation: StatementPreparation;
export let store: KeyStore;

/** Clients of a test, and what else it has to give back. */
export let undo: (() => unknown)[];

/** A table for the file, and sessions on it for each test. */
export function withAStore(): void {
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
    preparation = new StatementPreparation();
    store = new KeyStore(undefined, preparation);
    await pool.query('truncate idempotency_keys, infra.idempotency_keys, effects');
  });

  afterEach(async () => {
    for (const step of undo.toReversed()) await step();
  });

  afterAll(async () => {
    await pool.end();
    await database.drop();
  });
}

/** A session of its own, which ends with the test. */
export async function session(from = pool): Promise<PoolClient> {
  const client = await from.connect();
  undo.push(() => client.release(true));
  return client;
}

export function requestFor(key: string, overrides: Partial<ClaimAttempt> & { scope?: string } = {}): ClaimAttempt {
  const { scope = '', ...rest } = overrides;
  return { ...storedAs(testAttempt(key, { scope })), ...rest };
}

type Overrides = Partial<TestAttempt & NewRecord['response']>;

export function recordFor({ request, claimId }: ClaimAttempt, overrides: Overrides = {}): NewRecord {
  const { status, headers, body, bodyBytes, ...ofRequest } = overrides;
  return {
    ...storedAs(testAttempt(request.key, { scope: request.scope, claimId, ...ofRequest })),
    response: {
      status: status ?? 201,
      headers: headers ?? [['Content-Type', 'application/json']],
      body: body === undefined ? Buffer.from('{"id":1}') : body,
      bodyBytes: bodyBytes ?? 8,
    },
  };
}

export async function claimed(
  client: PoolClient,
  key: string,
  overrides?: Parameters<typeof requestFor>[1],
): Promise<ClaimAttempt> {
  const request = requestFor(key, overrides);
  expect(await store.claim(client, request)).toEqual({ kind: 'claimed' });
  return request;
}

/** The whole life of a key's first request. */
export async function complete(key: string, overrides?: Overrides): Promise<ClaimAttempt> {
  const client = await session();
  const request = await claimed(client, key);
  await store.record(client, recordFor(request, overrides), false);
  return request;
}

export const write = (client: PoolClient, label = 'done') =>
  client.query('insert into effects (label) values ($1)', [label]);

export async function effects(): Promise<string[]> {
  const { rows } = await pool.query<{ label: string }>('select label from effects order by label');
  return rows.map(({ label }) => label);
}

export async function rowsOf(table = 'idempotency_keys'): Promise<Record<string, unknown>[]> {
  const { rows } = await pool.query<Record<string, unknown>>(`select * from ${table} order by scope, key`);
  return rows;
}

export async function valueOf(client: Pool | PoolClient, expression: string): Promise<unknown> {
  const { rows } = await client.query<{ value: unknown }>(`select ${expression} as value`);
  return rows[0]!.value;
}

export function responseOf(found: FoundKey | undefined): StoredResponse {
  if (found?.kind !== 'completed') throw new Error(`no response, but ${JSON.stringify(found)}`);
  return found.response;
}

/** What a promise was rejected with. */
export async function errorOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => {
      throw new Error('it did not fail');
    },
    (error: unknown) => error,
  );
}

export async function backDate(key: string): Promise<void> {
  await pool.query(
    `update idempotency_keys set created_at = created_at - interval '2 days', expires_at = clock_timestamp() where key = $1`,
    [key],
  );
}
