import { describe, expect, it } from '@jest/globals';
import { Migrator } from '../../../src/migrate/migrate.js';
import { runCli } from '../../support/cli.js';
import { waitFor } from '../../support/wait-for.js';
import { database, NAMES, open, withAnEmptyDatabaseEach } from './lab.js';

withAnEmptyDatabaseEach();

describe('twenty at once', () => {
  it('all succeed, and apply the migration once', async () => {
    // The lock is held until all twenty wait for it: none of them gets by with being early or late.
    const [gate, watch] = [(await open()).createQueryRunner(), await open()];
    await gate.startTransaction();
    await gate.query(`select pg_advisory_xact_lock(hashtextextended('nestjs-idempotency migrations', 0))`);

    const processes = Array.from({ length: 10 }, () => runCli(['migration:run', '--url', database.url]));
    const inProcess = Array.from({ length: 10 }, async (_, index) => {
      const isolationLevel = index % 2 === 0 ? 'SERIALIZABLE' : 'REPEATABLE READ';
      return new Migrator(await open({ isolationLevel })).run();
    });
    await waitFor(
      async () => {
        const [row] = await watch.query<{ count: number }[]>(
          `select count(*)::int as count from pg_stat_activity
           where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'`,
        );
        return row?.count === 20;
      },
      { what: 'twenty to wait for the lock', timeoutMs: 60_000 },
    );
    await gate.rollbackTransaction();
    await gate.release();

    const exits = await Promise.all(processes);
    const applied = (await Promise.all(inProcess)).flat();
    expect(exits.map(({ exitCode, stderr }) => ({ exitCode, stderr }))).toEqual(
      Array.from({ length: 10 }, () => ({ exitCode: 0, stderr: '' })),
    );
    const winners = exits.filter(({ stdout }) => NAMES.every((name) => stdout.includes(`applied ${name}`)));
    expect([...winners.map(() => NAMES), applied].filter((names) => names.length > 0)).toEqual([NAMES]);
    await expect(watch.query('select name from idempotency_migrations order by timestamp')).resolves.toEqual(
      NAMES.map((name) => ({ name })),
    );
  }, 90_000);
});
