import { type EntityManager, type QueryRunner, TransactionNotStartedError } from 'typeorm';
import type { IsolationLevel } from '../idempotency.options.js';
import type { TransactionState } from './owned-transaction.js';
import { queryBy } from './database-connection.js';
import { transactionControlIn } from './sql-statements.js';
import type { Scope } from './transaction-scope.js';

/** Who holds it: code that asked for a runner of its own, or a manager of the transaction. */
export type RunnerOwner = 'caller' | 'transaction';

/** The scope that work of this QueryRunner belongs to; none where it is not one of a transaction that is open. */
export function scopeOfRunner(runner: QueryRunner): Scope | undefined {
  const handle = (runner as { [HANDLE]?: RunnerHandle })[HANDLE];
  return handle === undefined || handle.isLate ? undefined : handle.scope();
}

/** What TypeORM gets for a QueryRunner: one bound to a scope of the transaction, which nobody can release. */
export function createTransactionRunner(home: Scope, owner: RunnerOwner): QueryRunner {
  const { runner: own } = home.transaction.connection;
  const ordinary = own.constructor as OrdinaryRunnerClass;
  let TransactionQueryRunner = derived.get(ordinary);
  if (TransactionQueryRunner === undefined) {
    TransactionQueryRunner = derivedFrom(ordinary);
    derived.set(ordinary, TransactionQueryRunner);
  }
  return new TransactionQueryRunner(home, owner);
}

const HANDLE = Symbol('handle');

const RUNNER_OF_MANAGER: PropertyDescriptor = {
  get(this: { readonly [HANDLE]: RunnerHandle }) {
    return this[HANDLE].runnerOfManager;
  },
};

type OrdinaryRunnerClass = new (driver: unknown, mode: string) => object;
type TransactionRunnerClass = new (home: Scope, owner: RunnerOwner) => QueryRunner;

/** By the driver's own class, which TypeORM does not export. */
const derived = new WeakMap<OrdinaryRunnerClass, TransactionRunnerClass>();

/** Whatever builds SQL is inherited; whatever touches a connection goes to the handle. */
function derivedFrom(OrdinaryRunner: OrdinaryRunnerClass): TransactionRunnerClass {
  class TransactionQueryRunner extends OrdinaryRunner {
    readonly [HANDLE]: RunnerHandle;
    readonly transactionDepth = 1;

    constructor(home: Scope, owner: RunnerOwner) {
      super(home.transaction.transactions.dataSource.driver, 'master');
      this[HANDLE] = new RunnerHandle(home, owner, this as unknown as QueryRunner);
    }

    get isTransactionActive(): boolean {
      return this[HANDLE].isTransactionActive;
    }

    set isTransactionActive(_: boolean) {
      // The class above sets it to begin with.
    }

    get manager(): EntityManager {
      return this[HANDLE].manager;
    }

    connect(): Promise<unknown> {
      return this[HANDLE].connect();
    }

    release(): Promise<void> {
      return this[HANDLE].release();
    }

    [Symbol.asyncDispose](): Promise<void> {
      return this[HANDLE].dispose();
    }

    query(sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
      return this[HANDLE].query(sql, parameters, structured);
    }

    stream(...given: Parameters<RunnerHandle['stream']>): Promise<unknown> {
      return this[HANDLE].stream(...given);
    }

    startTransaction(isolation?: IsolationLevel): Promise<void> {
      return this[HANDLE].startTransaction(isolation);
    }

    commitTransaction(): Promise<void> {
      return this[HANDLE].end('commit');
    }

    rollbackTransaction(): Promise<void> {
      return this[HANDLE].end('roll back');
    }
  }
  return TransactionQueryRunner as unknown as TransactionRunnerClass;
}

/** What a QueryRunner of a transaction knows and does. */
class RunnerHandle {
  /** Nested transactions that were started by it and not ended, innermost last. It ends no others. */
  private readonly begun: Scope[] = [];
  private hasBegun = false;
  /** Where it was connected, or has started a transaction, when the request's own had committed. */
  private late: QueryRunner | undefined;
  private isConnected = false;
  /** Asked for its manager, it is used for several statements that hang together: a save() reads before it writes. */
  private isManaged = false;
  private ownManager: EntityManager | undefined;

  constructor(
    private readonly home: Scope,
    private readonly owner: RunnerOwner,
    private readonly runner: QueryRunner,
  ) {}

  get isLate(): boolean {
    return this.late !== undefined;
  }

  get isTransactionActive(): boolean {
    return this.late === undefined
      ? this.state !== 'committed' && (this.begun.length > 0 || this.owner === 'transaction' || !this.hasBegun)
      : this.late.isTransactionActive;
  }

  get manager(): EntityManager {
    this.isManaged = true;
    this.begun.at(-1)?.recogniseFlow();
    return (this.ownManager ??= this.createManager());
  }

  scope(): Scope {
    const { transactions } = this.home.transaction;
    this.begun.at(-1)?.recogniseFlow();
    return transactions.innermost((this.begun.at(-1) ?? this.home).live());
  }

  /** After COMMIT a manager is like the DataSource's own. */
  get runnerOfManager(): QueryRunner | undefined {
    return this.state === 'committed' && this.late === undefined ? undefined : this.runner;
  }

  async connect(): Promise<unknown> {
    this.home.transaction.assertNotLost();
    if (this.state === 'open') {
      return this.home.transaction.lendClient();
    }
    this.isConnected = true;
    return this.lateRunner().connect();
  }

  async release(): Promise<void> {
    while (this.begun.length > 0) {
      await this.end('roll back').catch(() => undefined); // what nobody has committed is not kept, nor in the way
    }
    await this.late?.release();
    this.late = undefined;
    this.isConnected = false;
  }

  async dispose(): Promise<void> {
    try {
      while (this.begun.length > 0) {
        await this.end('commit');
      }
      await this.late?.[Symbol.asyncDispose]();
    } finally {
      await this.release();
    }
  }

  async query(sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
    refuseTransactionControl(sql);
    return this.late === undefined
      ? await this.scope().query(sql, parameters, structured, !this.isManaged)
      : await queryBy(this.late, sql, parameters, structured);
  }

  async stream(
    sql: string,
    parameters?: unknown[],
    onEnd?: () => void,
    onError?: (error: Error) => void,
  ): Promise<unknown> {
    if (this.late !== undefined || this.state === 'committed') {
      return this.lateRunner().stream(sql, parameters, onEnd, onError);
    }
    refuseTransactionControl(sql);
    const stream = await this.scope().stream(sql, parameters);
    if (onEnd !== undefined) {
      stream.on('end', onEnd);
    }
    if (onError !== undefined) {
      stream.on('error', onError);
    }
    return stream;
  }

  async startTransaction(isolation?: IsolationLevel): Promise<void> {
    if (this.late === undefined && this.state !== 'committed') {
      const nested = this.scope().begin(isolation);
      this.begun.push(nested);
      this.hasBegun = true;
      // What follows in the caller's flow belongs to the new transaction, also where it uses a repository of its own.
      this.home.transaction.transactions.presumablyGoInto(nested);
      try {
        return await nested.entered;
      } catch (error) {
        this.begun.splice(this.begun.indexOf(nested), 1);
        if ((this.state as TransactionState) !== 'committed') {
          throw error;
        }
      }
    }
    await this.lateRunner().startTransaction(isolation);
  }

  async end(how: 'commit' | 'roll back'): Promise<void> {
    if (this.late !== undefined) {
      await (how === 'commit' ? this.late.commitTransaction() : this.late.rollbackTransaction());
      if (!this.late.isTransactionActive && !this.isConnected) {
        await this.release(); // who got this runner from a manager does not do it
      }
      return;
    }
    const nested = this.begun.at(-1);
    if (nested === undefined) {
      if (how === 'roll back' && this.owner === 'caller' && !this.hasBegun) {
        return; // isTransactionActive told it that there was something to undo
      }
      throw new TransactionNotStartedError();
    }
    if (how === 'commit') {
      await nested.release();
    }
    this.begun.pop();
    if (how === 'roll back') {
      await nested.rollBack('undone');
    }
  }

  private get state(): TransactionState {
    return this.home.transaction.state;
  }

  private lateRunner(): QueryRunner {
    return (this.late ??= this.home.transaction.transactions.dataSource.createQueryRunner());
  }

  private createManager(): EntityManager {
    const manager = this.home.transaction.transactions.dataSource.createEntityManager();
    Object.assign(manager, { [HANDLE]: this });
    return Object.defineProperty(manager, 'queryRunner', RUNNER_OF_MANAGER);
  }
}

/** @throws Error when the text, or that of a query object, has a statement that begins or ends a transaction */
function refuseTransactionControl(query: unknown): void {
  const text = typeof query === 'string' ? query : (query as { text?: unknown } | undefined)?.text;
  const control = typeof text === 'string' ? transactionControlIn(text) : undefined;
  if (control !== undefined) {
    throw new Error(
      `"${control}" would end the transaction of this idempotent request. ` +
        'Use DataSource.transaction() or a QueryRunner for a nested transaction; the request itself commits when its response is recorded.',
    );
  }
}
