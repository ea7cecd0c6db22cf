import { dataSourceOf } from '../data-source-of.js';
import type { MigrationRunner } from './migration-runner.js';
import { SQLSTATE, sqlStateOf } from '../sqlstate.js';
import { quoteIdentifier } from '../table-name.js';
import { delay, jittered } from '../../util/timing.js';

/**
 * How a change of a table waits for those who use it. ACCESS EXCLUSIVE queues up behind whoever reads, a pg_dump for
 * instance, and all requests queue up behind it: they are let through again after `lockTimeoutMs`, for `pauseMs`.
 */
export interface LockPatience {
  readonly lockTimeoutMs: number;
  readonly pauseMs: number;
  readonly tries: number;
}

/** Two to three minutes in all. */
export const LOCK_PATIENCE: LockPatience = { lockTimeoutMs: 1_000, pauseMs: 2_000, tries: 60 };

/** A statement that changes one of our tables, tried again by itself where TypeORM runs the migration. */
export async function changeTable(runner: MigrationRunner, table: string, sql: string): Promise<void> {
  if (runner.isOwn) {
    await runner.query(sql);
    return;
  }
  const send = runner.isTransactionActive === true ? inSavepoint : inSession;
  await insist(
    () => send(runner, sql),
    (tried) => describeHolders(runner, [table], tried),
    (message) => dataSourceOf(runner).logger.logMigration(message),
  );
}

/** Again and again while somebody else holds a lock. @throws what `attempt` throws, at last */
export async function insist<T>(
  attempt: () => Promise<T>,
  describe: (tried: string) => Promise<string>,
  tell: (message: string) => void,
  { pauseMs, tries }: LockPatience = LOCK_PATIENCE,
): Promise<T> {
  for (let tried = 1; ; tried++) {
    try {
      return await attempt();
    } catch (error) {
      if (sqlStateOf(error) !== SQLSTATE.lockNotAvailable || tried >= tries) {
        throw error;
      }
      tell(await describe(`try ${tried} of ${tries}`));
      await delay(jittered(pauseMs));
    }
  }
}

/** For the operator, who may want to end one of them. */
export async function describeHolders(
  db: Pick<MigrationRunner, 'query'>,
  tables: string[],
  tried: string,
): Promise<string> {
  const holders = (await db.query(
    `select distinct l.pid, a.application_name as application
     from pg_locks l left join pg_stat_activity a using (pid)
     where l.granted and l.pid <> pg_backend_pid() and l.database = (select oid from pg_database where datname = current_database())
       and l.relation = any (select to_regclass(name) from unnest($1::text[]) name)`,
    [tables],
  )) as { pid: number; application: string | null }[];
  const names = holders.map(({ pid, application }) => `${pid}${application ? ` (${application})` : ''}`).join(', ');
  const who = names === '' ? 'another session' : `the session ${names}`;
  return `waiting for ${who}, which uses ${tables.join(' or ')}; requests are let through meanwhile (${tried})`;
}

/** Where one is set already it counts: it may be the shorter one. */
const LIMIT = `case when current_setting('lock_timeout') = '0' then '${LOCK_PATIENCE.lockTimeoutMs}ms'
  else current_setting('lock_timeout') end`;

async function inSavepoint(runner: MigrationRunner, sql: string): Promise<void> {
  const savepoint = quoteIdentifier('idempotency migration');
  const before = await lockTimeoutOf(runner);
  await runner.query(`savepoint ${savepoint}`);
  try {
    await runner.query(`select set_config('lock_timeout', ${LIMIT}, true)`);
    await runner.query(sql);
    await runner.query(`select set_config('lock_timeout', $1, true)`, [before]);
    await runner.query(`release savepoint ${savepoint}`);
  } catch (error) {
    await runner.query(`rollback to savepoint ${savepoint}`);
    throw error;
  }
}

async function inSession(runner: MigrationRunner, sql: string): Promise<void> {
  const before = await lockTimeoutOf(runner);
  await runner.query(`select set_config('lock_timeout', ${LIMIT}, false)`);
  try {
    await runner.query(sql);
  } finally {
    await runner.query(`select set_config('lock_timeout', $1, false)`, [before]);
  }
}

async function lockTimeoutOf(runner: MigrationRunner): Promise<string> {
  const [row] = (await runner.query(`select current_setting('lock_timeout') as "lockTimeout"`)) as {
    lockTimeout: string;
  }[];
  return row!.lockTimeout;
}
