import { deferred } from '../../util/deferred.js';
import { isRead } from './sql-statements.js';
import { sqlStateOf, SQLSTATE } from '../sqlstate.js';

/** A runner's own way to send a statement: TypeORM's. */
export type Send = (sql: string, parameters?: unknown[], structured?: boolean) => Promise<unknown>;

/** With a QueryRunner's own way to send it; without one it is the library's. */
export type Statement = [sql: string, parameters?: unknown[], structured?: boolean, send?: Send];

/** Runs a statement on the transaction's connection. */
export type Execute = (...statement: Statement) => Promise<unknown>;

/** As much of a statement as a log needs. */
const SHOWN_LENGTH = 100;

/** A statement that waits for its turn behind a nested transaction, which perhaps waits for the statement. */
export class WaitingStatement {
  private readonly answer = deferred<unknown>();
  private isTried = false;
  private isAnswered = false;

  /** @param isAlone nothing but its caller's code hangs on it: it is not the first half of a write by TypeORM */
  constructor(
    private readonly statement: Statement,
    private readonly isAlone: boolean,
  ) {}

  /** Runs it when its turn has come, unless it was answered before. */
  answerInTurn(turn: (work: (execute: Execute) => Promise<unknown>) => Promise<unknown>): Promise<unknown> {
    const { answer } = this;
    turn((execute) => (this.isAnswered ? answer.promise : this.run(execute))).then(answer.resolve, answer.reject);
    return answer.promise;
  }

  /** Whether it may be tried inside of the nested transaction. */
  get mayRead(): boolean {
    return this.isAlone && !this.isTried && isRead(this.statement[0]);
  }

  /**
   * Runs it inside of the nested transaction, where it can only read. It has to wait all the same where it would write
   * (25006), or where that transaction has failed. Any other error is its answer.
   */
  async read(execute: Execute, savepoint: string): Promise<void> {
    this.isTried = true;
    const reading = this.readApart(execute, savepoint);
    const hasWritten = await reading.then(
      () => false,
      (error: unknown) =>
        [SQLSTATE.readOnlySqlTransaction, SQLSTATE.inFailedSqlTransaction].some((code) => code === sqlStateOf(error)),
    );
    if (!hasWritten) {
      this.isAnswered = true;
      reading.then(this.answer.resolve, this.answer.reject);
    }
  }

  /** Runs it in a savepoint of its own, where it can only read, so that nothing comes of its failure. */
  async readApart(execute: Execute, savepoint: string): Promise<unknown> {
    await execute(`savepoint ${savepoint}; set local transaction_read_only = on`);
    try {
      return await this.run(execute);
    } finally {
      await execute(`rollback to savepoint ${savepoint}; release savepoint ${savepoint}`);
    }
  }

  /** For a log: parameters may be secret. */
  toString(): string {
    return shown(this.statement[0]);
  }

  private run(execute: Execute): Promise<unknown> {
    return execute(...this.statement);
  }
}

/** A statement as a log shows it. */
export function shown(sql: string): string {
  const text = String(sql) // pg itself takes a query object, too
    .slice(0, 2 * SHOWN_LENGTH)
    .replace(/\s+/g, ' ')
    .trim();
  return `"${text.length > SHOWN_LENGTH ? `${text.slice(0, SHOWN_LENGTH)}…` : text}"`;
}
