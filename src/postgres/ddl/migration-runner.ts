import type { MigrationInterface } from 'typeorm';

/**
 * What our migrations need of TypeORM's `QueryRunner`, and no more: so that `migration:sql` can pass in one that writes
 * statements down instead of running them. Its DataSource is found by `dataSourceOf()`.
 */
export interface MigrationRunner {
  query(sql: string, parameters?: unknown[]): Promise<unknown>;
  /** Of TypeORM's: whether a transaction is open. */
  readonly isTransactionActive?: boolean;
  /** Of our own: what waits too long is begun anew as a whole, and constraints are validated afterwards. */
  readonly isOwn?: true;
}

/** A migration that TypeORM can run, and {@link MigrationRunner} too. */
export interface Migration extends MigrationInterface {
  /** As it is recorded: TypeORM wants it to end in the 13 digits of a JavaScript time. */
  readonly name: string;
  up(runner: MigrationRunner): Promise<void>;
  down(runner: MigrationRunner): Promise<void>;
}
