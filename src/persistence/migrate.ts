import type { DataSource, QueryRunner } from 'typeorm';
import { idempotencyMigrations } from '../../migrations/index.js';
import { dataSourceSchema } from './data-source-schema.js';
import { MigrationHistory } from './migration-history.js';
import type { Migration, MigrationRunner } from './migration-runner.js';
import { StatementRecorder } from './statement-recorder.js';

/**
 * TypeORM's own `runMigrations()` takes no lock: of six that start together five fail. Ours queue up behind this one.
 *
 * The transaction holds it, not the session, so that it also works behind PgBouncer in transaction mode. One lock for
 * the whole database is enough: at worst two schemas wait for each other's few milliseconds.
 */
const LOCK = `select pg_advisory_xact_lock(hashtextextended('nestjs-idempotency migrations', 0))`;

export interface MigrationState {
  readonly name: string;
  readonly applied: boolean;
}

/**
 * Applies and reverts the library's migrations on their own, apart from the application's.
 *
 * Lock, migrations and their record are one transaction on one connection: whatever fails, all of it is undone.
 */
export class Migrator {
  private readonly migrations: Migration[];
  private readonly history: MigrationHistory;

  /**
   * @param dataSource an initialized one
   * @param schema where the table goes, created when it is missing; the DataSource's schema when not given
   */
  constructor(
    private readonly dataSource: DataSource,
    schema?: string,
  ) {
    this.migrations = idempotencyMigrations.map((Migration) => new Migration(schema));
    this.history = new MigrationHistory(schema ?? dataSourceSchema(dataSource));
  }

  /** Applies what is pending, and returns the names. */
  async run(): Promise<string[]> {
    return this.exclusively(async (runner) => {
      const pending = await this.pending(runner);
      await this.apply(pending, runner);
      return pending.map(({ name }) => name);
    });
  }

  /** Takes back the newest applied migration, and returns its name; nothing when none is applied. */
  async revert(): Promise<string | undefined> {
    return this.exclusively(async (runner) => {
      const newest = (await this.history.names(runner)).at(-1);
      if (newest === undefined) return undefined;

      const migration = this.migrations.find(({ name }) => name === newest);
      if (migration === undefined) {
        throw new Error(`${newest} came with a newer version of nestjs-idempotency: revert it with that version.`);
      }
      await migration.down(runner);
      await this.history.remove(runner, newest);
      return newest;
    });
  }

  async show(): Promise<MigrationState[]> {
    return this.onPrimary(async (runner) => {
      const applied = await this.history.names(runner);
      return this.migrations.map(({ name }) => ({ name, applied: applied.includes(name) }));
    });
  }

  /** The statements that `run()` would send now, with its transaction and lock; none when nothing is pending. */
  async sql(): Promise<string[]> {
    return this.onPrimary(async (runner) => {
      const pending = await this.pending(runner);
      if (pending.length === 0) return [];

      const recorder = new StatementRecorder(runner);
      await this.apply(pending, recorder);
      return ['begin', LOCK, ...recorder.statements, 'commit'];
    });
  }

  private async pending(runner: MigrationRunner): Promise<Migration[]> {
    const applied = await this.history.names(runner);
    return this.migrations.filter(({ name }) => !applied.includes(name));
  }

  private async apply(migrations: Migration[], runner: MigrationRunner): Promise<void> {
    for (const migration of migrations) {
      await migration.up(runner);
      // Only now, since it lives in the schema that the first migration makes.
      await this.history.create(runner);
      await this.history.add(runner, migration.name);
    }
  }

  private async exclusively<T>(work: (runner: QueryRunner) => Promise<T>): Promise<T> {
    return this.onPrimary((runner) =>
      // READ COMMITTED whatever the default is: a stricter level takes its snapshot before it waits for the lock, and
      // would then not see what the previous holder did.
      runner.manager.transaction('READ COMMITTED', async () => {
        await runner.query(LOCK);
        return work(runner);
      }),
    );
  }

  private async onPrimary<T>(work: (runner: QueryRunner) => Promise<T>): Promise<T> {
    const runner = this.dataSource.createQueryRunner('master');
    try {
      return await work(runner);
    } finally {
      await runner.release();
    }
  }
}
