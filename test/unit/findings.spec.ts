import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import {
  type Finding,
  findingsOnCitus,
  findingsOnIdleTransactions,
  findingsOnPool,
  findingsOnServer,
  findingsOnTables,
} from '../../src/cli/findings.js';
import type { Pooler } from '../../src/cli/pooler.js';
import { findingsOnVersions, installedVersions } from '../../src/cli/versions.js';
import type { ServerFacts, TableFacts } from '../../src/postgres/statements/diagnosis.js';

const SERVER: ServerFacts = {
  version: 180_000,
  versionName: '18.0',
  encoding: 'UTF8',
  isStandby: false,
  readOnly: false,
  synchronousCommit: 'on',
  fsync: true,
  fullPageWrites: true,
  maxConnections: 100,
  reservedConnections: 3,
  statementTimeoutMs: 0,
  idleInTransactionTimeoutMs: 0,
  role: 'shop',
  backendPid: 1,
  clockMs: 0,
};

const TABLES: TableFacts = {
  indexes: [],
  notUnique: [],
  constraints: [],
  unlogged: [],
  missingRights: [],
  unusual: [],
  partitioned: [],
  schemas: ['public'],
  bloated: [],
  autovacuumOff: [],
};

const checks = (findings: Finding[]) => findings.map(({ check }) => check);

describe('the doctor', () => {
  it('has nothing to say of a server that is as it should be', () => {
    expect(findingsOnServer(SERVER, 500)).toEqual([]);
    expect(findingsOnPool(SERVER, { poolSize: 10, instances: 9, pooler: undefined })).toEqual([]);
    expect(findingsOnTables(TABLES, { schema: 'public', isNamed: false, role: 'shop' })).toEqual([]);
  });

  it.each<[string, Partial<ServerFacts>, number]>([
    ['version', { version: 120_000 }, 0],
    ['encoding', { encoding: 'SQL_ASCII' }, 0],
    ['standby', { isStandby: true, readOnly: true }, 0],
    ['read-only', { readOnly: true }, 0],
    ['synchronous_commit', { synchronousCommit: 'off' }, 0],
    ['fsync', { fsync: false }, 0],
    ['full_page_writes', { fullPageWrites: false }, 0],
    ['statement_timeout', { statementTimeoutMs: 999 }, 0],
    ['clock', {}, -2_001],
  ])('finds %s of a server', (check, facts, skewMs) => {
    expect(checks(findingsOnServer({ ...SERVER, ...facts }, skewMs))).toEqual([check]);
  });

  it('finds pools that ask for more than there is, unless a pooler is in between', () => {
    const pool = { poolSize: 10, instances: 10, pooler: undefined };
    expect(findingsOnPool(SERVER, pool)).toMatchObject([
      { check: 'pool', remedy: expect.stringContaining('at most 9') },
    ]);
    const pooler: Pooler = { mode: 'transaction', tracksStatements: true };
    expect(findingsOnPool(SERVER, { ...pool, pooler })).toEqual([]);
  });

  it.each<[Pooler['mode'], tracksStatements: boolean, problems: RegExp[]]>([
    ['statement', false, [/no transaction can be begun/]],
    ['transaction', false, [/does not know which statements were prepared/]],
    ['transaction', true, []],
    ['session', false, []],
  ])('knows a pooler in %s mode, tracking statements %s', (mode, tracksStatements, problems) => {
    const pool = { poolSize: undefined, instances: undefined, pooler: { mode, tracksStatements } };
    const wanted = problems.map((problem) => ({ check: 'pooler', problem: expect.stringMatching(problem) }));
    expect(findingsOnPool(SERVER, pool)).toMatchObject(wanted);
  });

  it('finds sessions that are idle in a transaction, and says whether a limit is off', () => {
    expect(findingsOnIdleTransactions(SERVER, { count: 0, oldestSeconds: 0 })).toEqual([]);
    const idle = { count: 2, oldestSeconds: 7_300 };
    expect(findingsOnIdleTransactions(SERVER, idle)).toMatchObject([
      {
        check: 'idle_in_transaction_session_timeout',
        problem: expect.stringMatching(/^2 sessions are .* for 2 h, and idle_in_transaction_session_timeout is off/),
      },
    ]);
    const limited = { ...SERVER, idleInTransactionTimeoutMs: 3_600_000 };
    expect(findingsOnIdleTransactions(limited, idle)[0]!.problem).not.toContain('is off');
  });

  it('finds plain tables beside distributed ones of Citus', () => {
    const citus = {
      plain: ['idempotency_keys', 'idempotency_steps'],
      keysElsewhere: false,
      isPartitioned: false,
      replicated: [],
      elsewhere: 'orders',
    };
    expect(findingsOnCitus(citus, 'public')).toMatchObject([
      { check: 'citus', remedy: expect.stringContaining('create_distributed_table') },
    ]);
    expect(findingsOnCitus({ ...citus, elsewhere: undefined }, 'public')).toEqual([]);
    expect(findingsOnCitus({ ...citus, plain: [] }, 'public')).toEqual([]);
    expect(findingsOnCitus({ ...citus, plain: [], replicated: ['"public"."idempotency_keys"'] }, 'public')).toEqual([
      {
        check: 'citus',
        problem: expect.stringContaining('has "public"."idempotency_keys" as a reference table, which one request'),
        remedy: expect.stringContaining(
          `begin; select undistribute_table('"public"."idempotency_keys"'); select create_distributed_table('"public"."idempotency_keys"', 'key', colocate_with => 'none'); commit;`,
        ),
      },
    ]);
    expect(findingsOnCitus(undefined, 'public')).toEqual([]);
  });

  it.each<[pg: string | undefined, typeorm: string | undefined, problems: string[]]>([
    ['8.11.0', '0.3.20', []],
    ['8.23.1', '1.1.1', []],
    [undefined, undefined, []],
    ['8.10.9', '0.3.19', ['pg 8.10.9 is not supported', 'typeorm 0.3.19 is not supported']],
    ['9.0.0-beta.1', '2.0.0', ['pg 9.0.0-beta.1 is not supported', 'typeorm 2.0.0 is not supported']],
    ['7.18.2', '0.4.0', ['pg 7.18.2 is not supported']],
  ])('knows which versions are supported: pg %s, TypeORM %s', (pg, typeorm, problems) => {
    const found = findingsOnVersions({ library: '0.1.0', pg, typeorm });
    expect(found.map(({ problem }) => problem)).toEqual(problems);
  });

  it('supports the versions that npm is told of', () => {
    const { peerDependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as Record<string, unknown>;
    expect(peerDependencies).toMatchObject({ pg: '^8.11.0', typeorm: '^0.3.20 || ^1.0.0' });
    expect(findingsOnVersions(installedVersions())).toEqual([]);
  });

  it('finds tables that lack partitions', () => {
    const table = 'idempotency_keys';
    const partitioned = [{ table, partitions: 7, isWhole: false }];
    const as = { schema: 'public', isNamed: true, role: 'shop' };
    expect(checks(findingsOnTables({ ...TABLES, partitioned }, as))).toEqual(['partitions']);
    expect(findingsOnTables({ ...TABLES, partitioned: [{ table, partitions: 8, isWhole: true }] }, as)).toEqual([]);
  });

  it('finds what the tables are like that no key can be kept in, and leaves partitioned ones alone', () => {
    const facts: TableFacts = {
      ...TABLES,
      unusual: [
        { table: 'idempotency_keys', kind: 'a parent of others by INHERITS' },
        { table: 'idempotency_steps', kind: 'partitioned' },
      ],
      notUnique: [{ table: 'idempotency_steps', columns: ['execution_id', 'name'] }],
      bloated: [{ table: 'idempotency_keys', deadRows: 20_000, liveRows: 10 }],
    };
    expect(checks(findingsOnTables(facts, { schema: 'public', isNamed: true, role: 'shop' }))).toEqual([
      'unique',
      'table',
      'bloat',
    ]);
  });
});
