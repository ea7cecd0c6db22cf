import { randomBytes } from 'node:crypto';
import { DataSource, type QueryRunner } from 'typeorm';
import type { PoolClient } from 'pg';

/** What answers in the server's place, by how it behaves: only PgBouncer's own console tells its settings. */
export interface Pooler {
  /** For how long a connection has a session of the server. */
  readonly mode: 'session' | 'transaction' | 'statement';
  /** Whether it knows the statements that its clients have prepared, or hands their names on to whichever session comes next. */
  readonly tracksStatements: boolean;
}

/** A session that was free may have been taken by somebody else in the meantime: then nothing is shown, and it is tried again. */
const TRIES = 3;

/** Nothing where the connection is one to the server. */
export async function findPooler(dataSource: DataSource): Promise<Pooler | undefined> {
  const runner = dataSource.createQueryRunner('master');
  try {
    const client = (await runner.connect()) as PoolClient & { processID: number };
    // As the server has told it at the start of the session: a pooler makes one up.
    if (client.processID === (await pidOf(runner))) {
      return undefined;
    }
    const mode = await modeOf(dataSource, runner);
    return { mode, tracksStatements: mode !== 'statement' && (await tracksStatements(client)) };
  } finally {
    await runner.release();
  }
}

/** Whether a second connection gets the session of the first, which is free between two transactions. */
async function modeOf({ options }: DataSource, first: QueryRunner): Promise<Pooler['mode']> {
  const second = await new DataSource(options).initialize();
  const runner = second.createQueryRunner('master');
  try {
    for (let turn = 0; turn < TRIES; turn++) {
      const pid = await pidOf(first);
      try {
        await runner.query('begin');
      } catch {
        return 'statement'; // "transaction blocks not allowed in statement pooling mode"
      }
      const sharedPid = await pidOf(runner);
      await runner.query('rollback');
      if (sharedPid === pid) {
        return 'transaction';
      }
    }
    return 'session';
  } finally {
    await runner.release();
    await second.destroy();
  }
}

/** One that does gives them names of its own. */
async function tracksStatements(client: PoolClient): Promise<boolean> {
  const name = `nestjs_idempotency_doctor_${randomBytes(6).toString('hex')}`; // one may be left from another time
  await client.query('begin'); // so that all of it is in one session
  try {
    const text = `select name from pg_prepared_statements where statement like '%of the doctor itself%'`;
    const { rows } = await client.query<{ name: string }>({ name, text });
    return rows.every((row) => row.name !== name);
  } finally {
    await client.query(`deallocate ${name}`).catch(() => undefined); // another one that deallocates by itself refuses it
    await client.query('rollback');
  }
}

async function pidOf(runner: QueryRunner): Promise<number> {
  const [row] = (await runner.query('select pg_backend_pid() as pid')) as [{ pid: number }];
  return row.pid;
}
