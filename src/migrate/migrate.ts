import type { DataSource, QueryRunner } from 'typeorm';
import { idempotencyMigrations } from '../../migrations/index.js';
import { dataSourceOf } from '../postgres/data-source-of.js';
import { dataSourceSchema } from '../postgres/data-source-schema.js';
import { MigrationHistory } from './migration-history.js';
import { isPartitionedInto, partitioning, type Split, splitOf } from './partitions.js';
import { findKeyTables } from '../postgres/statements/key-tables.js';
import type { Migration, MigrationRunner } from '../postgres/ddl/migration-runner.js';
import { describeHolders, insist, LOCK_PATIENCE, type LockPatience } from '../postgres/ddl/patient-ddl.js';
import { StatementRecorder } from './statement-recorder.js';
import { KEYS_TABLE, quoteIdentifier, tablesIn } from '../postgres/table-name.js';

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
 * Lock, migrations and their record are one transaction on one connection: whatever fails, all of it is undone. It is long
 * because there is one method a command, and all of them need that transaction.
 */
export class Migrator {
  private readonly migrations: Migration[];
  private readonly history: MigrationHistory;

  /**
   * @param dataSource an initialized one
   * @param schema where the table goes, created when it is missing; the DataSource's schema when not given
   * @param tell is told who is waited for
   */
  constructor(
    private readonly dataSource: DataSource,
    private readonly schema?: string,
    private readonly tell: (message: string) => void = () => undefined,
    private readonly patience: LockPatience = LOCK_PATIENCE,
  ) {
    this.migrations = idempotencyMigrations.map((Migration) => new Migration(schema));
    this.history = new MigrationHistory(schema ?? dataSourceSchema(dataSource));
  }

  /** Applies what is pending, and returns the names. Constraints are validated behind it, without keeping anybody out. */
  async run(): Promise<string[]> {
    const applied = await this.exclusively(async (runner) => {
      const pending = await this.pending(runner);
      await this.apply(pending, runner);
      return pending.map(({ name }) => name);
    });
    await this.validate();
    return applied;
  }

  /** Takes back the newest applied migration, and returns its name; nothing when none is applied. */
  async revert(): Promise<string | undefined> {
    return this.exclusively(async (runner) => {
      const newest = (await this.history.names(runner)).at(-1);
      if (newest === undefined) {
        return undefined;
      }

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
      if (pending.length === 0) {
        return [];
      }

      const recorder = new StatementRecorder(runner);
      await this.apply(pending, recorder);
      const apart = this.validationsOf(recorder.statements);
      return ['begin', LOCK, this.limit, ...recorder.statements, 'commit', ...apart];
    });
  }

  /**
   * The statements that turn the tables into ones of `count` HASH partitions, or 0 into plain ones again; none when they
   * are that already.
   *
   * @throws Error where that cannot be
   */
  async partitionSql(count: number): Promise<string[]> {
    return this.onPrimary(async (runner) => {
      const schema = await this.placeOf(runner);
      if (schema === undefined) {
        throw new Error('Run migration:run first: not all migrations are applied.');
      }
      return (await isPartitionedInto(runner, schema, count))
        ? []
        : partitioning(runner, schema, count, LOCK, this.patience);
    });
  }

  /** How the table of keys is split. */
  async split(): Promise<Split> {
    return this.onPrimary(async (runner) => {
      const schema = await this.placeOf(runner);
      return schema === undefined ? { partitions: 0 } : splitOf(runner, schema, KEYS_TABLE);
    });
  }

  private async placeOf(runner: QueryRunner): Promise<string | undefined> {
    return (await findKeyTables(runner, this.schema ?? dataSourceSchema(this.dataSource)))?.schema;
  }

  /** Reads all rows, under a lock that lets others read and write; also what a former run has left behind. */
  private async validate(): Promise<void> {
    const [keys] = this.tables;
    const pending = await this.onPrimary(async (runner) => {
      const sql = `select conname as name from pg_constraint where conrelid = to_regclass($1::text) and not convalidated order by 1`;
      return (await runner.query(sql, [keys])) as { name: string }[];
    });
    for (const { name } of pending) {
      const sql = `alter table ${keys} validate constraint ${quoteIdentifier(name)}`;
      await this.exclusively((runner) => runner.query(sql));
    }
  }

  /** The same as text, for constraints that statements add without a look at the rows. */
  private validationsOf(statements: readonly string[]): string[] {
    const [keys] = this.tables;
    return statements.flatMap((statement) =>
      [...statement.matchAll(/add constraint (\w+)(?:(?!add constraint)[^])*? not valid/g)].map(
        ([, name]) => `alter table ${keys} validate constraint ${name}`,
      ),
    );
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

  private exclusively<T>(work: (runner: MigrationRunner) => Promise<T>): Promise<T> {
    return insist(
      () => this.inTransaction(work),
      (tried) => this.onPrimary((runner) => describeHolders(runner, this.tables, tried)),
      this.tell,
      this.patience,
    );
  }

  private inTransaction<T>(work: (runner: MigrationRunner) => Promise<T>): Promise<T> {
    return this.onPrimary((runner) =>
      // READ COMMITTED whatever the default is: a stricter level takes its snapshot before it waits for the lock, and
      // would then not see what the previous holder did.
      runner.manager.transaction('READ COMMITTED', async () => {
        await runner.query(LOCK);
        await runner.query(this.limit);
        return work(ownRunner(runner));
      }),
    );
  }

  /** Behind the lock of the migrations, which is waited for as long as it takes. */
  private get limit(): string {
    return `set local lock_timeout = '${this.patience.lockTimeoutMs}ms'`;
  }

  private get tables(): string[] {
    const schema = this.schema ?? dataSourceSchema(this.dataSource);
    return Object.values(tablesIn(schema));
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

function ownRunner(runner: QueryRunner): MigrationRunner {
  return {
    isOwn: true,
    dataSource: dataSourceOf(runner),
    query: (sql, values) => runner.query(sql, values),
  } as MigrationRunner;
}
