import type { PoolClient } from 'pg';
import { SQLSTATE, sqlStateOf } from './sqlstate.js';
import { type BoundStatement, runBatch, type Statement, type StatementResult } from './statement-batch.js';

/** Runs statements in batches, prepared where the connection keeps what is prepared. */
export class StatementRunner {
  /** Off once a pooler turned out to lose prepared statements between transactions. */
  private keepsPrepared = true;

  /** @param prepared the statements that a batch may hold: a connection learns all of them with its first one */
  run(client: PoolClient, batch: BoundStatement[], prepared: readonly Statement[]): Promise<StatementResult[]> {
    return runBatch(client, batch, this.keepsPrepared ? prepared : undefined);
  }

  /**
   * True when a batch failed because prepared statements do not stay with the connection (PgBouncer in transaction
   * mode before 1.21), so that nothing of it was committed. It may run again, on another connection: from then on the
   * statements are sent unnamed.
   */
  shouldRunAgain(error: unknown): boolean {
    switch (sqlStateOf(error)) {
      case SQLSTATE.invalidSqlStatementName:
      case SQLSTATE.duplicatePreparedStatement:
        this.keepsPrepared = false; // unnamed statements cannot fail that way: this comes to an end
        return true;
      default:
        return false;
    }
  }
}
