import { SQLSTATE, sqlStateOf } from './sqlstate.js';
import type { Statement } from './statement-batch.js';

/** Whether connections keep what is prepared on them. */
export class StatementPreparation {
  /** Off once a pooler turned out to lose prepared statements between transactions. */
  private isKept = true;

  /** What a connection is to learn with its first batch; nothing where all are sent unnamed. */
  of(statements: readonly Statement[]): readonly Statement[] | undefined {
    return this.isKept ? statements : undefined;
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
        this.isKept = false; // unnamed statements cannot fail that way: this comes to an end
        return true;
      default:
        return false;
    }
  }
}
