import { AsyncLocalStorage } from 'node:async_hooks';
import { finished } from 'node:stream/promises';
import type { PoolClient } from 'pg';
import {
  type DataSource,
  type EntityManager,
  type QueryRunner,
  type ReplicationMode,
  TransactionNotStartedError,
} from 'typeorm';
import { deferred } from '../deferred.js';
import { TransactionRolledBackError } from '../idempotency.exceptions.js';
import type { IsolationLevel } from '../idempotency.options.js';
import { Lane } from './lane.js';

/** What TypeORM's PostgresQueryRunner has beyond its public type. */
interface PostgresQueryRunner extends QueryRunner {
  releasePostgresConnection(error?: Error): Promise<void>;
}

const ISOLATION_RANK: Record<IsolationLevel, number> = {
  'READ UNCOMMITTED': 0,
  'READ COMMITTED': 0, // PostgreSQL treats READ UNCOMMITTED as READ COMMITTED (manual, 13.2)
  'REPEATABLE READ': 1,
  SERIALIZABLE: 2,
};

/** Statements that would end or restart the transaction behind the library's back. */
const TRANSACTION_CONTROL =
  /^\s*(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b/i;

/**
 * Makes a DataSource transaction-aware: within {@link AmbientTransaction.run} every repository, manager, query builder
 * and `DataSource.transaction()` of it uses the one transaction. All of TypeORM that was given no QueryRunner asks
 * `createQueryRunner()` for one; that and the root manager's `transaction()` are all that is replaced.
 */
export class AmbientTransactions {
  private readonly current = new AsyncLocalStorage<Scope | undefined>();
  private readonly createOrdinaryRunner: DataSource['createQueryRunner'];
  private readonly ordinaryTransaction: EntityManager['transaction'];

  constructor(readonly dataSource: DataSource) {
    this.createOrdinaryRunner = dataSource.createQueryRunner.bind(dataSource);
    this.ordinaryTransaction = dataSource.manager.transaction.bind(dataSource.manager);
    dataSource.createQueryRunner = (mode) => this.createQueryRunner(mode);
    this.nestTransactionsOf(dataSource.manager, () => this.scope());
  }

  /** The level TypeORM itself would begin a transaction with. */
  get defaultIsolation(): IsolationLevel | undefined {
    const { options } = this.dataSource;
    return 'isolationLevel' in options ? (options.isolationLevel as IsolationLevel | undefined) : undefined;
  }

  /** Gives the DataSource its own methods back. */
  uninstall(): void {
    const { dataSource } = this;
    Reflect.deleteProperty(dataSource, 'createQueryRunner');
    Reflect.deleteProperty(dataSource.manager, 'transaction');
  }

  /** Takes a connection to the primary out of the pool. */
  async connect(): Promise<DatabaseConnection> {
    const runner = this.createOrdinaryRunner('master') as PostgresQueryRunner;
    const client = (await runner.connect()) as PoolClient;
    return new DatabaseConnection(runner, client);
  }

  /** Runs `work` with ordinary connections, outside of any transaction of this library. */
  outside<T>(work: () => T): T {
    return this.current.run(undefined, work);
  }

  /** @internal */
  enter<T>(scope: Scope, work: () => T): T {
    return this.current.run(scope, work);
  }

  /** @internal Makes `scope` the current one for the rest of the caller's own asynchronous flow. */
  enterWith(scope: Scope): void {
    this.current.enterWith(scope);
  }

  /** The transaction on whose behalf the running code works, whatever became of it. */
  transaction(): AmbientTransaction | undefined {
    return this.current.getStore()?.transaction;
  }

  /** @internal One statement on an ordinary connection: late work of a request whose transaction has committed. */
  async queryOutside(sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
    const runner = this.createOrdinaryRunner();
    try {
      return await (structured ? runner.query(sql, parameters, true) : runner.query(sql, parameters));
    } finally {
      await runner.release();
    }
  }

  /** @internal Makes `manager.transaction()` a savepoint of the scope it is called in. */
  nestTransactionsOf(manager: EntityManager, scopeOf: () => Scope | undefined): void {
    type Work = (manager: EntityManager) => Promise<unknown>;
    const nested = (isolationOrWork: IsolationLevel | Work, maybeWork?: Work): Promise<unknown> => {
      const scope = scopeOf();
      const [isolation, work] =
        typeof isolationOrWork === 'function' ? [undefined, isolationOrWork] : [isolationOrWork, maybeWork!];
      if (scope !== undefined) {
        return scope.nest(isolation, work);
      }
      return isolation === undefined ? this.ordinaryTransaction(work) : this.ordinaryTransaction(isolation, work);
    };
    manager.transaction = nested as EntityManager['transaction'];
  }

  private createQueryRunner(mode?: ReplicationMode): QueryRunner {
    // Inside a transaction a replica would not see its writes: reads go to the primary, too.
    return this.scope()?.createHandle() ?? this.createOrdinaryRunner(mode);
  }

  /** The scope new work belongs to, or none where ordinary connections serve. */
  private scope(): Scope | undefined {
    const scope = this.current.getStore();
    switch (scope?.transaction.state) {
      case undefined:
      case 'committed':
        return undefined;
      case 'rolled back':
        throw new TransactionRolledBackError();
      case 'open':
        return scope?.live();
    }
  }
}

/** A connection of the pool, held until it is given back or destroyed. TypeORM's runner listens for its errors. */
export class DatabaseConnection {
  private returned = false;

  constructor(
    readonly runner: PostgresQueryRunner,
    readonly client: PoolClient,
  ) {}

  /** True when the connection broke while it was held: TypeORM's runner then gives it up by itself. */
  get broken(): boolean {
    return this.runner.isReleased && !this.returned;
  }

  release(): void {
    this.returned = true;
    void this.runner.release();
  }

  /** Closes the connection: PostgreSQL rolls back what it had open. The pool makes another one. */
  destroy(cause: unknown): void {
    this.returned = true;
    const error = cause instanceof Error ? cause : new Error(String(cause));
    void this.runner.releasePostgresConnection(error);
  }
}

/** The transaction of one claimed request. */
export class AmbientTransaction {
  state: 'open' | 'committed' | 'rolled back' = 'open';
  private readonly root: Scope;
  private running: Promise<unknown> = Promise.resolve();
  private savepoints = 0;

  constructor(
    readonly transactions: AmbientTransactions,
    readonly connection: DatabaseConnection,
    readonly isolation: IsolationLevel,
  ) {
    // repository.save() opens a transaction of its own unless there is one
    Object.assign(connection.runner, { isTransactionActive: true });
    this.root = new Scope(this);
  }

  /** Runs `work` so that every use of the DataSource in it, and in all it calls, joins the transaction. */
  run<T>(work: () => T): T {
    return this.transactions.enter(this.root, work);
  }

  /** A manager of this transaction. */
  createManager(): EntityManager {
    return this.root.createHandle().manager;
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
    await this.running.catch(() => undefined);
  }

  /** @internal */
  nextSavepoint(): string {
    return `idempotency_${++this.savepoints}`;
  }

  /** @internal */
  stream(args: Parameters<QueryRunner['stream']>): ReturnType<QueryRunner['stream']> {
    return this.state === 'open'
      ? this.connection.runner.stream(...args)
      : Promise.reject(new TransactionRolledBackError());
  }

  /** @internal The only place where a handler's statement reaches the connection; lanes see to one at a time. */
  execute(sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
    switch (this.state) {
      case 'committed':
        return this.transactions.queryOutside(sql, parameters, structured);
      case 'rolled back':
        return Promise.reject(new TransactionRolledBackError());
      case 'open': {
        const { runner } = this.connection;
        const result = structured ? runner.query(sql, parameters, true) : runner.query(sql, parameters);
        this.running = result;
        return result;
      }
    }
  }
}

/**
 * The transaction itself, or a savepoint in it. Statements of a scope run one after another; a nested scope takes its
 * turn among them and keeps it until it ends, so that what runs beside it is never undone with it.
 */
class Scope {
  readonly lane = new Lane();
  private readonly savepoint: string;
  private ended = false;
  private readonly left = deferred();
  private entered: Promise<void> = Promise.resolve();

  constructor(
    readonly transaction: AmbientTransaction,
    private readonly parent?: Scope,
  ) {
    this.savepoint = parent === undefined ? '' : transaction.nextSavepoint();
  }

  /** This scope, or the nearest around it that has not ended. */
  live(): Scope {
    return this.ended && this.parent !== undefined ? this.parent.live() : this;
  }

  query(sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
    return this.lane.run(() =>
      this.ended && this.parent !== undefined
        ? this.parent.query(sql, parameters, structured)
        : this.transaction.execute(sql, parameters, structured),
    );
  }

  /** `DataSource.transaction()`: a savepoint that is released when `work` succeeds and rolled back to when it fails. */
  async nest(
    isolation: IsolationLevel | undefined,
    work: (manager: EntityManager) => Promise<unknown>,
  ): Promise<unknown> {
    const nested = this.begin(isolation);
    await nested.entered;
    try {
      const result = await this.transaction.transactions.enter(nested, () => work(nested.createHandle().manager));
      await nested.end('release');
      return result;
    } catch (error) {
      // The handler's own error is what it must see, also where the rollback fails for want of a connection.
      await nested.end('rollback to').catch(() => nested.close());
      throw error;
    }
  }

  /** Starts a nested scope; its statements wait until it has had its turn and its savepoint is set. */
  begin(isolation: IsolationLevel | undefined): Scope {
    this.assertIsolation(isolation);
    const nested = new Scope(this.transaction, this);
    nested.entered = new Promise((resolve, reject) => {
      void this.lane.run(async () => {
        try {
          await this.transaction.execute(`savepoint ${nested.savepoint}`);
        } catch (error) {
          nested.close();
          reject(error);
        }
        resolve();
        await nested.left.promise;
      });
    });
    void nested.lane.run(() => nested.entered).catch(() => undefined);
    return nested;
  }

  end(how: 'release' | 'rollback to'): Promise<void> {
    if (this.parent === undefined) {
      return Promise.reject(new TransactionNotStartedError());
    }
    return this.lane.run(async () => {
      await this.transaction.execute(
        how === 'release'
          ? `release savepoint ${this.savepoint}`
          : `rollback to savepoint ${this.savepoint}; release savepoint ${this.savepoint}`,
      );
      this.close();
    });
  }

  private close(): void {
    this.ended = true;
    this.left.resolve();
  }

  /** What TypeORM gets for a QueryRunner: the transaction's own, bound to this scope, which nobody can release. */
  createHandle(): QueryRunner {
    const { transactions, connection } = this.transaction;
    const handle = Object.create(connection.runner) as PostgresQueryRunner;
    let scope: Scope = this;
    const Broadcaster = connection.runner.broadcaster.constructor as new (runner: QueryRunner) => object;
    const end = (how: 'release' | 'rollback to'): Promise<void> => {
      scope = scope.live();
      return scope.end(how);
    };
    Object.assign(handle, {
      // The real runner is released when the request is over; late work must still reach execute() and be told why.
      isReleased: false,
      broadcaster: new Broadcaster(handle), // hands subscribers this handle, not the runner beneath it
      release: () => Promise.resolve(),
      query: (sql: string, parameters?: unknown[], structured?: boolean) =>
        TRANSACTION_CONTROL.test(sql)
          ? Promise.reject(transactionControlError(sql))
          : scope.live().query(sql, parameters, structured),
      stream: (...args: Parameters<QueryRunner['stream']>) => scope.live().stream(args),
      startTransaction: (isolation?: IsolationLevel) => {
        scope = scope.live().begin(isolation);
        // What follows in the caller's flow belongs to the new transaction, also where it uses a repository of its own.
        transactions.enterWith(scope);
        return scope.entered;
      },
      commitTransaction: () => end('release'),
      rollbackTransaction: () => end('rollback to'),
    });
    const manager = transactions.dataSource.createEntityManager(handle);
    transactions.nestTransactionsOf(manager, () => scope.live());
    return Object.assign(handle, { manager });
  }

  /** A stream keeps its turn until it has been read to its end. */
  private stream(args: Parameters<QueryRunner['stream']>): ReturnType<QueryRunner['stream']> {
    return new Promise((resolve, reject) => {
      this.lane
        .run(async () => {
          const stream = await this.transaction.stream(args);
          resolve(stream);
          await finished(stream).catch(() => undefined); // its reader sees the error
        })
        .catch(reject);
    });
  }

  private assertIsolation(wanted: IsolationLevel | undefined): void {
    const { isolation } = this.transaction;
    if (wanted !== undefined && ISOLATION_RANK[wanted] > ISOLATION_RANK[isolation]) {
      throw new Error(
        `A transaction with isolation level ${wanted} cannot be opened inside the ${isolation} transaction of an idempotent request: ` +
          `set @Idempotent({ isolation: '${wanted}' }) on the route.`,
      );
    }
  }
}

function transactionControlError(sql: string): Error {
  return new Error(
    `"${sql.trim().split(/\s+/, 2).join(' ')}" would end the transaction of this idempotent request. ` +
      'Use DataSource.transaction() or a QueryRunner for a nested transaction; the request itself commits when its response is recorded.',
  );
}
