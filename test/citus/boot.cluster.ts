import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { MANAGED_BY_DEFAULT, WORKERS } from '../support/citus.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { queriesOn } from '../support/empty-database.js';
import { turnTablesInto } from '../support/table-kinds.js';
import { createTestApp } from '../support/test-app.js';
import { databaseOf, ORDERS, rowsOn, undistribute } from './shop.js';

async function start(databaseUrl: string, localWrites?: true): Promise<void> {
  await (await createTestApp({ adapter: 'express', databaseUrl, idempotency: { localWrites } })).close();
}

async function refusal(databaseUrl: string): Promise<string> {
  return start(databaseUrl).then(
    () => 'it started',
    (reason: Error) => reason.message,
  );
}

const remediesIn = (message: string): string[] => [...message.matchAll(/select [^;]*;/g)].map(([sql]) => sql);

describe('plain tables of keys on a cluster', () => {
  let database: TestDatabase;

  beforeAll(async () => {
    database = await createTestDatabase();
    await undistribute(database.url);
  });

  afterAll(() => database.drop());

  it('are refused beside distributed tables, until one of the remedies was run, or nobody writes to those', async () => {
    await rowsOn(database.url, ORDERS);
    const message = await refusal(database.url);
    expect(message).toMatch(/is a plain table beside distributed ones \(orders\)/);
    await start(database.url, true);
    const remedies = remediesIn(message);
    expect(remedies).toHaveLength(4);
    await rowsOn(database.url, `set ${MANAGED_BY_DEFAULT}; ${remedies.slice(0, 2).join(' ')}`);
    await start(database.url);
    await undistribute(database.url);
    await rowsOn(database.url, remedies.slice(2).join(' '));
    await start(database.url);
  });

  it('are to be distributed where they are in partitions, which Citus cannot manage', async () => {
    await undistribute(database.url);
    await turnTablesInto('8 HASH partitions', database.url);
    const remedies = remediesIn(await refusal(database.url));
    expect(remedies).toHaveLength(2);
    await rowsOn(database.url, remedies.join(' '));
    await start(database.url);
  });

  it('has workers at all', () => {
    expect(WORKERS.length).toBeGreaterThan(0);
  });
});

describe('keys in reference tables', () => {
  let database: TestDatabase;

  beforeAll(async () => {
    database = await createTestDatabase();
    await undistribute(database.url);
    await rowsOn(
      database.url,
      `select create_reference_table('idempotency_keys'); select create_reference_table('idempotency_steps')`,
    );
  });

  afterAll(() => database.drop());

  it('are warned of, until the remedy was run', async () => {
    const warnings = async (): Promise<string[]> => {
      const test = await createTestApp({ adapter: 'fastify', databaseUrl: database.url });
      await test.close();
      return test.logs;
    };
    const [warning] = await warnings();
    expect(warning).toContain('as reference tables, which one request at a time can write to');
    const [, remedy] = /coordinator: (begin; .* commit;)/.exec(warning!)!;
    await queriesOn(database.url, remedy!.split(/(?<=;) /));
    await expect(warnings()).resolves.toEqual([]);
  });
});

describe.each([
  ['distributed', /^select create_distributed_table\('"public"."idempotency_steps"', 'execution_id'/],
  ['managed', /^select citus_add_local_table_to_metadata\('"public"."idempotency_steps"'\)/],
] as const)('steps that a migration adds to keys that are %s', (kind, remedy) => {
  let database: TestDatabase;

  beforeAll(async () => {
    database = await databaseOf(kind);
    await rowsOn(database.url, `${ORDERS}; select undistribute_table('idempotency_steps')`);
  });

  afterAll(() => database.drop());

  it('are refused, until they are where the keys are', async () => {
    const remedies = remediesIn(await refusal(database.url));
    expect(remedies).toEqual([expect.stringMatching(remedy)]);
    await rowsOn(database.url, remedies[0]!);
    await start(database.url);
  });
});
