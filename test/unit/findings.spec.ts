import { describe, expect, it } from '@jest/globals';
import { type Finding, findingsOnPool, findingsOnServer, findingsOnTables } from '../../src/cli/findings.js';
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
  role: 'shop',
  backendPid: 1,
  clockMs: 0,
};

const TABLES: TableFacts = {
  indexes: [],
  constraints: [],
  unlogged: [],
  missingRights: [],
  unusual: [],
  schemas: ['public'],
  bloated: [],
  autovacuumOff: [],
};

const checks = (findings: Finding[]) => findings.map(({ check }) => check);

describe('the doctor', () => {
  it('has nothing to say of a server that is as it should be', () => {
    expect(findingsOnServer(SERVER, 500)).toEqual([]);
    expect(findingsOnPool(SERVER, { poolSize: 10, instances: 9, pooler: false, keepsStatements: true })).toEqual([]);
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
    const pool = { poolSize: 10, instances: 10, pooler: false, keepsStatements: true };
    expect(findingsOnPool(SERVER, pool)).toMatchObject([
      { check: 'pool', remedy: expect.stringContaining('at most 9') },
    ]);
    expect(findingsOnPool(SERVER, { ...pool, pooler: true })).toEqual([]);
  });

  it('finds a pooler that forgets prepared statements', () => {
    const pool = { poolSize: undefined, instances: undefined, pooler: true, keepsStatements: false };
    expect(checks(findingsOnPool(SERVER, pool))).toEqual(['pooler']);
  });

  it('finds what the tables are like that no key can be kept in, and leaves partitioned ones alone', () => {
    const facts: TableFacts = {
      ...TABLES,
      unusual: [
        { table: 'idempotency_keys', kind: 'a parent of others by INHERITS' },
        { table: 'idempotency_steps', kind: 'partitioned' },
      ],
      bloated: [{ table: 'idempotency_keys', deadRows: 20_000, liveRows: 10 }],
    };
    expect(checks(findingsOnTables(facts, { schema: 'public', isNamed: true, role: 'shop' }))).toEqual([
      'table',
      'bloat',
    ]);
  });
});
