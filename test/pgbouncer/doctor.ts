import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { DataSource } from 'typeorm';
import { findingsOnPool } from '../../src/cli/findings.js';
import { findPooler } from '../../src/cli/pooler.js';
import { Diagnosis } from '../../src/postgres/statements/diagnosis.js';
import { withPgBouncer } from './pgbouncer.js';

/** What is told of PgBouncer in each of its modes, and that a server by itself is told to be none. */
export async function examinePoolers(server: URL): Promise<void> {
  assert.equal((await examine(server)).pooler, undefined);
  const tracks = await tracksStatements();
  for (const mode of ['session', 'transaction', 'statement'] as const) {
    await withPgBouncer(server, mode, async (port) => {
      const url = new URL(server);
      url.port = String(port);
      const { pooler, problems } = await examine(url);
      assert.deepEqual(pooler, { mode, tracksStatements: tracks && mode !== 'statement' });
      const isFine = mode === 'session' || (mode === 'transaction' && tracks);
      assert.equal(problems.length, isFine ? 0 : 1);
      console.log(`doctor: ${mode} mode is told, ${isFine ? 'and nothing found' : problems[0]}`);
    });
  }
}

/** From 1.21 on, where `max_prepared_statements` is above 0, as it is by default from 1.24 on. */
async function tracksStatements(): Promise<boolean> {
  const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` };
  const [, major, minor] =
    /(\d+)\.(\d+)/.exec(execFileSync('pgbouncer', ['--version'], { env, encoding: 'utf8' })) ?? [];
  return Number(major) > 1 || Number(minor) >= 24;
}

async function examine({ href }: URL) {
  const dataSource = await new DataSource({ type: 'postgres', url: href, poolSize: 1 }).initialize();
  try {
    const pooler = await findPooler(dataSource);
    const pool = { poolSize: undefined, instances: undefined, pooler };
    const problems = findingsOnPool(await new Diagnosis(dataSource).server(), pool).map(({ problem }) => problem);
    return { pooler, problems };
  } finally {
    await dataSource.destroy();
  }
}
