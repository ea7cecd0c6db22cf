import type { PoolClient } from 'pg';
import type { EntityManager } from 'typeorm';
import { type AfterCommitCallback, runLogged } from '../after-commit.js';
import { deferred } from '../deferred.js';
import { TransactionRolledBackError } from '../idempotency.exceptions.js';
import type { IsolationLevel } from '../idempotency.options.js';
import type { AmbientTransactions } from './ambient-transactions.js';
import { type DatabaseConnection, queryBy } from './database-connection.js';
import { Scope } from './transaction-scope.js';

export type TransactionState = 'open' | 'committed' | 'rolled back';

/** The transaction of one claimed request. */
export class AmbientTransaction {
  private currentState: TransactionState = 'open';
  private readonly over = deferred();
  private readonly root: Scope;
  private running: Promise<unknown> = Promise.resolve();
  private names = 0;

  constructor(
    readonly transactions: AmbientTransactions,
    readonly connection: DatabaseConnection,
    readonly isolation: IsolationLevel,
  ) {
    // repository.save() opens a transaction of its own unless there is one; a subscriber that begins one on this very
    // runner, which queries are announced with, gets a savepoint.
    Object.assign(connection.runner, { isTransactionActive: true, transactionDepth: 1 });
    this.root = new Scope(this);
  }

  get state(): TransactionState {
    return this.currentState;
  }

  set state(state: TransactionState) {
    this.currentState = state;
    this.over.resolve();
  }

  /** Runs `work` so that every use of the DataSource in it, and in all it calls, joins the transaction. */
  run<T>(work: () => T): T {
    return this.transactions.enter(this.root, work);
  }

  /** A manager of this transaction. */
  createManager(): EntityManager {
    return this.root.createHandle('transaction').manager;
  }

  /**
   * Has `callback` run once everything has committed; never where this, or the nested transaction that it was handed in
   * by, is undone.
   */
  afterCommit(callback: AfterCommitCallback): void {
    if (this.state === 'committed') {
      void runLogged(callback);
    } else {
      this.transactions.innermost(this.root).afterCommit.add(callback);
    }
  }

  /** Runs what was handed in, once it is known that the handler's writes were committed. Their errors are logged. */
  async runAfterCommit(): Promise<void> {
    await this.root.afterCommit.run();
  }

  /**
   * Lets the transaction end: behind all statements that were handed in before, and behind open nested transactions.
   * Statements handed in later run on ordinary connections once it has committed.
   */
  commit(work: (client: PoolClient) => Promise<void>): Promise<void> {
    return this.root.lane.run(async () => {
      if (this.state !== 'open') {
        throw new TransactionRolledBackError(); // the time limit came while a nested transaction was in the way
      }
      await work(this.connection.client);
      this.state = 'committed';
    });
  }

  /** From here on every statement on behalf of this request is refused; the one that is running is waited for. */
  async refuseFurtherWork(): Promise<void> {
    this.state = 'rolled back';
    this.root.afterCommit.drop();
    await this.idle();
  }

  /** @internal Waits for the statement that is running. */
  async idle(): Promise<void> {
    await this.running.catch(() => undefined);
  }

  /** @internal Waits for the end of a nested transaction, or of the whole: then nobody keeps a turn. */
  async untilLeft(left: Promise<void>): Promise<void> {
    await Promise.race([left, this.over.promise]);
    await this.idle();
  }

  /** @internal For a savepoint or a cursor. */
  nextName(): string {
    return `idempotency_${++this.names}`;
  }

  /** @internal The only place where a handler's statement reaches the connection; lanes see to one at a time. */
  execute(sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
    switch (this.state) {
      case 'committed':
        return this.executeOutside(sql, parameters, structured);
      case 'rolled back':
        return Promise.reject(new TransactionRolledBackError());
      case 'open': {
        const result = queryBy(this.connection.runner, sql, parameters, structured);
        this.running = result;
        return result;
      }
    }
  }

  /** Late work, on an ordinary connection; or on another request's, where what was loaded here is used by that one. */
  private async executeOutside(sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
    const runner = this.transactions.dataSource.createQueryRunner();
    try {
      return await queryBy(runner, sql, parameters, structured);
    } finally {
      await runner.release();
    }
  }
}
