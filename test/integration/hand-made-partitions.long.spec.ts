import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { runCliHere } from '../support/cli.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { queriesOn } from '../support/empty-database.js';
import { type HandMade, partitionByHand } from '../support/hand-made-partitions.js';
import { createTestApp } from '../support/test-app.js';

interface Finding {
  check: string;
  problem: string;
}

/** The server of the tests is a fast one. */
const OF_THE_TESTS = ['fsync', 'full_page_writes'];

const SHOWN: Record<HandMade, string> = {
  'LIST of scopes': 'LIST (scope)',
  'LIST of scopes, and HASH below': 'LIST (scope)',
  'RANGE of keys': 'RANGE (key)',
  'HASH with columns in another order': 'HASH (key)',
};

describe('tables that were split by hand', () => {
  let database: TestDatabase;

  beforeEach(async () => {
    database = await createTestDatabase();
  });

  afterEach(() => database.drop());

  async function findings(): Promise<Finding[]> {
    const { stdout } = await runCliHere(['doctor', '--json', '--url', database.url]);
    return (JSON.parse(stdout) as { findings: Finding[] }).findings.filter(
      ({ check }) => !OF_THE_TESTS.includes(check),
    );
  }

  it.each(Object.entries(SHOWN) as [HandMade, string][])(
    'are shown as they are, and nothing is said against them: %s',
    async (kind, by) => {
      await partitionByHand(kind, database.url);
      expect(await findings()).toEqual([]);
      expect((await runCliHere(['migration:show', '--url', database.url])).stdout).toContain(
        `in 2 partitions by ${by}\n`,
      );
    },
  );

  it.each<[HandMade, drop: string, problem: RegExp]>([
    ['LIST of scopes', 'drop table "keys: the rest"', /^idempotency_keys has 1 partition,/],
    ['LIST of scopes, and HASH below', 'drop table keys_of_nobody_1', /^keys_of_nobody has 2 partitions,/],
    ['LIST of scopes, and HASH below', 'drop table "Keys of All, N-Z"', /^keys_of_all has 1 partition,/],
    ['RANGE of keys', 'drop table keys_above', /^idempotency_keys has 1 partition,/],
    ['RANGE of keys', 'drop table steps_all', /^idempotency_steps has 0 partitions,/],
    [
      'RANGE of keys',
      `alter table idempotency_keys detach partition keys_below;
       alter table idempotency_keys attach partition keys_below for values from (minvalue) to ('k4')`,
      /^idempotency_keys has 2 partitions,/,
    ],
  ])('are found to lack partitions, at whatever level: %s after %s', async (kind, drop, problem) => {
    await partitionByHand(kind, database.url);
    await queriesOn(database.url, [drop]);
    expect(await findings()).toEqual([
      expect.objectContaining({ check: 'partitions', problem: expect.stringMatching(problem) }),
    ]);
  });

  it.each([
    ['idempotency_keys', 'scope, key', 'expires_at'],
    ['idempotency_steps', 'execution_id, name', 'created_at'],
  ])('are refused at boot, and named by the doctor, where %s is split by time', async (table, identity, indexed) => {
    await queriesOn(database.url, [
      `alter table ${table} rename to whole`,
      `create table ${table} (like whole including all excluding indexes, primary key (${identity}, created_at))
         partition by range (created_at)`,
      `create table always partition of ${table} default`,
      `create index on ${table} (${indexed})`,
    ]);
    const problem = `has no unique index over (${identity}), by which a row is kept once`;
    await expect(createTestApp({ adapter: 'express', databaseUrl: database.url })).rejects.toThrow(problem);
    expect(await findings()).toEqual([
      expect.objectContaining({ check: 'unique', problem: expect.stringContaining(problem) }),
    ]);
    const { stderr } = await runCliHere(['migration:sql', '--partitions', '2', '--url', database.url]);
    expect(stderr).toContain(`has no unique index over (${identity}): a row may be in it twice`);
  });
});
