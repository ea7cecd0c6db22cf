import { AsyncLocalStorage } from 'node:async_hooks';
import { Readable } from 'node:stream';
import type { Pool, PoolClient } from 'pg';
import {
  type DataSource,
  type EntityManager,
  type QueryResult,
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

type Work = (manager: EntityManager) => Promise<unknown>;
type TransactionArguments = [isolationOrWork: IsolationLevel | Work | undefined, work?: Work];

const ISOLATION_RANK: Record<IsolationLevel, number> = {
  'READ UNCOMMITTED': 0,
  'READ COMMITTED': 0, // PostgreSQL treats READ UNCOMMITTED as READ COMMITTED (manual, 13.2)
  'REPEATABLE READ': 1,
  SERIALIZABLE: 2,
};

/** Statements that would end or restart the transaction behind the library's back, whatever comment is before them. */
const TRANSACTION_CONTROL =
  /^(?:[\s;]|--[^\n]*\n|\/\*(?:[^*]|\*(?!\/))*\*\/)*(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b/i;

/** A cursor in SQL takes no statement that writes. */
const WRITES = /\b(?:insert|update|delete|merge)\b/i;

/** Rows that a stream fetches at a time: as many as pg-query-stream does. */
const STREAM_BATCH = 100;

/** The DataSources that are transaction-aware: all managers share one `transaction()`. */
const installed = new WeakMap<DataSource, AmbientTransactions>();
const awareManagers = new WeakSet<object>();

/** Where the code of an asynchronous flow is, for sure or by presumption. */
interface Place {
  readonly scope: Scope;
  readonly presumed: boolean;
}

/** What `createQueryRunner()` answered within a transaction, each with the scope its work belongs to. */
const scopesOfHandles = new WeakMap<QueryRunner, () => Scope | undefined>();

/** The pool of the primary, where TypeORM's driver keeps one. */
function poolOf(dataSource: DataSource): Pool | undefined {
  return (dataSource.driver as { master?: Pool }).master;
}

const guarded = new WeakSet<PoolClient>();

/**
 * Between the pool, which takes its `error` listener off a connection at checkout, and TypeORM, which puts its own on a
 * moment later, a connection that dies would end the process by an uncaught exception. Whoever holds it still learns
 * of its death by the next statement.
 */
function keepProcessAlive(client: PoolClient): void {
  if (!guarded.has(client)) {
    guarded.add(client);
    client.on('error', () => undefined);
  }
}

/**
 * Makes a DataSource transaction-aware: within {@link AmbientTransaction.run} every repository, manager, query builder
 * and `DataSource.transaction()` of it uses the one transaction. All of TypeORM that was given no QueryRunner asks
 * `createQueryRunner()` for one; that and `EntityManager.transaction()` are all that is replaced.
 */
export class AmbientTransactions {
  private readonly current = new AsyncLocalStorage<Place | undefined>();
  private readonly createOrdinaryRunner: DataSource['createQueryRunner'];

  constructor(readonly dataSource: DataSource) {
    this.createOrdinaryRunner = dataSource.createQueryRunner.bind(dataSource);
    dataSource.createQueryRunner = (mode) => this.createQueryRunner(mode);
    poolOf(dataSource)?.on('acquire', keepProcessAlive);
    installed.set(dataSource, this);
    nestTransactions(Object.getPrototypeOf(dataSource.manager) as EntityManager);
  }

  /** The level TypeORM itself would begin a transaction with. */
  get defaultIsolation(): IsolationLevel | undefined {
    const { options } = this.dataSource;
    return 'isolationLevel' in options ? (options.isolationLevel as IsolationLevel | undefined) : undefined;
  }

  /** Gives the DataSource its own ways back. */
  uninstall(): void {
    Reflect.deleteProperty(this.dataSource, 'createQueryRunner');
    poolOf(this.dataSource)?.off('acquire', keepProcessAlive);
    installed.delete(this.dataSource);
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
    return this.current.run({ scope, presumed: false }, work);
  }

  /** @internal Puts the rest of the running flow into `scope`. */
  goInto(scope: Scope): void {
    this.current.enterWith({ scope, presumed: false });
  }

  /**
   * @internal Puts the rest of the running flow into `scope`, and with it what its caller starts beside it: the two
   * cannot be told apart until the flow uses its runner.
   */
  presumablyGoInto(scope: Scope): void {
    this.current.enterWith({ scope, presumed: true });
  }

  /** The transaction on whose behalf the running code works, whatever became of it. */
  transaction(): AmbientTransaction | undefined {
    return this.current.getStore()?.scope.transaction;
  }

  /** @internal The scope new work belongs to, or none where ordinary connections serve. */
  scope(): Scope | undefined {
    if (this.transaction()?.state === 'rolled back') {
      throw new TransactionRolledBackError();
    }
    const scope = this.place();
    return scope?.transaction.state === 'open' ? scope : undefined;
  }

  /** @internal `scope`, or the one inside of it that the running flow has gone into. */
  innermost(scope: Scope): Scope {
    const place = this.transaction() === scope.transaction ? this.place() : undefined;
    return place?.isWithin(scope) ? place : scope;
  }

  private place(): Scope | undefined {
    const place = this.current.getStore();
    return place?.presumed ? place.scope.forPresumed() : place?.scope.live();
  }

  private createQueryRunner(mode?: ReplicationMode): QueryRunner {
    // Inside a transaction a replica would not see its writes: reads go to the primary, too.
    return this.scope()?.createHandle('caller') ?? this.createOrdinaryRunner(mode);
  }
}

/**
 * Makes `EntityManager.transaction()` a savepoint of the scope it is called in. The class itself is changed: custom
 * repositories come with managers of their own, made before the library was there.
 */
function nestTransactions(managers: EntityManager): void {
  if (awareManagers.has(managers)) {
    return;
  }
  awareManagers.add(managers);
  const ordinary = managers.transaction as (...given: TransactionArguments) => Promise<unknown>;
  async function transaction(this: EntityManager, ...given: TransactionArguments): Promise<unknown> {
    const { queryRunner } = this;
    const scope =
      queryRunner === undefined ? installed.get(this.dataSource)?.scope() : scopesOfHandles.get(queryRunner)?.();
    return scope === undefined ? ordinary.apply(this, given) : scope.nest(...given);
  }
  managers.transaction = transaction as EntityManager['transaction'];
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

type TransactionState = 'open' | 'committed' | 'rolled back';

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

function queryBy(runner: QueryRunner, sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
  return structured ? runner.query(sql, parameters, true) : runner.query(sql, parameters);
}

/** Work of a nested transaction that was rolled back: it must not write into the transaction around it. */
class NestedTransactionRolledBackError extends TransactionRolledBackError {
  constructor() {
    super();
    this.message =
      'The nested transaction that this work belongs to was rolled back, so what still runs on its behalf can no longer use the database. ' +
      'Await all work before the callback of DataSource.transaction() returns.';
  }
}

/**
 * The transaction itself, or a savepoint in it. Statements of a scope run one after another; a nested scope takes its
 * turn among them and keeps it until it ends, so that what runs beside it is never undone with it.
 */
class Scope {
  readonly lane = new Lane();
  /** Settles when the savepoint is set, or could not be. */
  entered: Promise<void> = Promise.resolve();
  private readonly savepoint: string;
  private state: 'entering' | 'open' | 'released' | 'undone' | 'refusing';
  private undoing = false;
  /** The flow that has begun this scope has used its runner: from then on no other one is presumed to be it. */
  private isFlowKnown = false;
  private readonly left = deferred();
  /** The nested scope whose turn it is. */
  private inner: Scope | undefined;

  constructor(
    readonly transaction: AmbientTransaction,
    private readonly parent?: Scope,
  ) {
    this.state = parent === undefined ? 'open' : 'entering';
    this.savepoint = parent === undefined ? '' : transaction.nextName();
  }

  /** This scope, or the nearest around it that has not ended. */
  live(): Scope {
    if (this.state === 'refusing') {
      throw new NestedTransactionRolledBackError();
    }
    const hasEnded = this.state === 'released' || this.state === 'undone';
    return hasEnded && this.parent !== undefined ? this.parent.live() : this;
  }

  /**
   * The same for a flow that is only presumed to be in this scope. As long as the savepoint is not set it cannot be the
   * one that awaits it, and once that one has made itself known it is another.
   */
  forPresumed(): Scope {
    const isAnother = this.state === 'entering' || (this.state === 'open' && this.isFlowKnown);
    return isAnother && this.parent !== undefined ? this.parent.live() : this.live();
  }

  isWithin(other: Scope): boolean {
    return this === other || (this.parent?.isWithin(other) ?? false);
  }

  query(sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
    return this.inTurn(() => this.transaction.execute(sql, parameters, structured));
  }

  /**
   * Reads by a cursor in SQL. Unlike one of the protocol, which is what pg-query-stream uses, it leaves the connection
   * to other statements between two reads: a loop over the rows may write.
   */
  async stream(sql: string, parameters?: unknown[]): Promise<Readable> {
    if (WRITES.test(sql)) {
      const { records } = (await this.query(sql, parameters, true)) as QueryResult<unknown>;
      return Readable.from(records);
    }
    const cursor = this.transaction.nextName();
    await this.query(`declare ${cursor} no scroll cursor for ${sql}`, parameters);
    return Readable.from(this.rowsOf(cursor));
  }

  /** `DataSource.transaction()`: a savepoint that is released when `work` succeeds and rolled back to when it fails. */
  async nest(...given: TransactionArguments): Promise<unknown> {
    const { transactions } = this.transaction;
    const [isolation, work] = typeof given[0] === 'function' ? [undefined, given[0]] : [given[0], given[1]!];
    const nested = this.begin(isolation);
    try {
      await nested.entered;
    } catch (error) {
      if (this.transaction.state === 'committed') {
        return transactions.dataSource.manager.transaction(...(given as [Work])); // it came while COMMIT was under way
      }
      throw error;
    }
    try {
      const { manager } = nested.createHandle('transaction');
      const result = await transactions.enter(nested, () => work(manager));
      await nested.release();
      return result;
    } catch (error) {
      // The handler's own error is what it must see, also where the rollback fails for want of a connection. What the
      // callback has left running must not write into the scope around.
      await nested.rollBack('refusing').catch(() => undefined);
      throw error;
    }
  }

  /** Starts a nested scope; its statements wait until it has had its turn and its savepoint is set. */
  begin(isolation: IsolationLevel | undefined): Scope {
    this.assertIsolation(isolation);
    const nested = new Scope(this.transaction, this);
    nested.entered = new Promise((resolve, reject) => {
      this.inTurn((turn) => turn.hold(nested, resolve)).catch((error: unknown) => {
        nested.close('undone');
        reject(error);
      });
    });
    void nested.lane.run(() => nested.entered).catch(() => undefined);
    return nested;
  }

  /** Keeps what was done in this scope: it becomes part of the one around. */
  release(): Promise<void> {
    return this.lane.run(async () => {
      this.live(); // refuses where the scope around was rolled back meanwhile
      await this.transaction.execute(`release savepoint ${this.savepoint}`);
      this.close('released');
    });
  }

  /** Undoes what was done in this scope, and in nested ones that nobody has ended. */
  rollBack(then: 'undone' | 'refusing'): Promise<void> {
    this.undoing = true;
    this.inner?.abandon();
    return this.lane.run(async () => {
      try {
        if (this.state === 'open') {
          const { savepoint } = this;
          await this.transaction.execute(`rollback to savepoint ${savepoint}; release savepoint ${savepoint}`);
        }
      } finally {
        this.close(then);
      }
    });
  }

  /** The running flow uses the runner that it has begun this scope with. */
  recogniseFlow(): void {
    const { transactions } = this.transaction;
    const isFurtherIn = transactions.innermost(this) !== this;
    if (this.state === 'open' && !isFurtherIn) {
      this.isFlowKnown = true;
      transactions.goInto(this);
    }
  }

  createHandle(owner: HandleOwner): QueryRunner {
    return createHandle(this, owner);
  }

  /** Runs `work` when it is this scope's turn, or, where it has ended by then, that of the scope around. */
  private inTurn<T>(work: (turn: Scope) => Promise<T>): Promise<T> {
    if (this.transaction.state !== 'open') {
      return work(this); // nobody has turns any more
    }
    return this.lane.run(() => {
      const live = this.live();
      return live === this ? work(this) : live.inTurn(work);
    });
  }

  /** Sets the nested scope's savepoint and keeps the turn for it until it ends. */
  private async hold(nested: Scope, entered: () => void): Promise<void> {
    if (this.undoing || this.transaction.state === 'committed') {
      throw new NestedTransactionRolledBackError();
    }
    this.inner = nested;
    try {
      await this.transaction.execute(`savepoint ${nested.savepoint}`);
      if (nested.state === 'entering') {
        nested.state = 'open';
      }
      entered();
      await this.transaction.untilLeft(nested.left.promise);
    } finally {
      this.inner = undefined;
    }
  }

  /** The scope around is rolled back and this one with it, whoever was to end it. */
  private abandon(): void {
    this.inner?.abandon();
    if (this.state === 'entering' || this.state === 'open') {
      this.close('refusing');
    }
  }

  private close(state: 'released' | 'undone' | 'refusing'): void {
    if (this.state !== 'released') {
      this.state = state;
    }
    this.left.resolve();
  }

  private async *rowsOf(cursor: string): AsyncGenerator<unknown> {
    try {
      let rows: unknown[];
      do {
        rows = (await this.onCursor(`fetch ${STREAM_BATCH} from ${cursor}`)) as unknown[];
        yield* rows;
      } while (rows.length === STREAM_BATCH);
    } finally {
      await this.onCursor(`close ${cursor}`).catch(() => undefined);
    }
  }

  /** A cursor ends with the scope it was opened in when that is rolled back, and with the transaction. */
  private onCursor(sql: string): Promise<unknown> {
    return this.inTurn(() => {
      if (this.wasUndone()) {
        throw new NestedTransactionRolledBackError();
      }
      if (this.transaction.state === 'committed') {
        throw new Error('This stream was to be read within the transaction of its idempotent request, which is over.');
      }
      return this.transaction.execute(sql);
    });
  }

  private wasUndone(): boolean {
    return this.state === 'undone' || this.state === 'refusing' || (this.parent?.wasUndone() ?? false);
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

/** Who holds it: code that asked for a runner of its own, or a manager of the transaction. */
type HandleOwner = 'caller' | 'transaction';

/** What TypeORM gets for a QueryRunner: the transaction's own, bound to a scope, which nobody can release. */
function createHandle(home: Scope, owner: HandleOwner): QueryRunner {
  const { transaction } = home;
  const { transactions, connection } = transaction;
  const { dataSource } = transactions;
  const handle = Object.create(connection.runner) as PostgresQueryRunner;
  const Broadcaster = connection.runner.broadcaster.constructor as new (runner: QueryRunner) => object;
  /** Nested transactions that this handle has started and not ended, innermost last. It ends no others. */
  const begun: Scope[] = [];
  let hasBegun = false;
  /** Where it was connected, or has started a transaction, when the request's own had committed. */
  let late: QueryRunner | undefined;
  let isConnected = false;

  const scope = (): Scope => {
    begun.at(-1)?.recogniseFlow();
    return transactions.innermost((begun.at(-1) ?? home).live());
  };

  const end = async (how: 'commit' | 'roll back'): Promise<void> => {
    if (late !== undefined) {
      await (how === 'commit' ? late.commitTransaction() : late.rollbackTransaction());
      if (!late.isTransactionActive && !isConnected) {
        await release(); // who got this handle from a manager does not do it
      }
      return;
    }
    const nested = begun.at(-1);
    if (nested === undefined) {
      if (how === 'roll back' && owner === 'caller' && !hasBegun) {
        return; // isTransactionActive told it that there was something to undo
      }
      throw new TransactionNotStartedError();
    }
    if (how === 'commit') {
      await nested.release();
    }
    begun.pop();
    if (how === 'roll back') {
      await nested.rollBack('undone');
    }
  };

  const release = async (): Promise<void> => {
    while (begun.length > 0) {
      await end('roll back').catch(() => undefined); // what nobody has committed is not kept, nor in the way
    }
    await late?.release();
    late = undefined;
    isConnected = false;
  };

  Object.assign(handle, {
    // The real runner is released when the request is over; late work must still reach execute() and be told why.
    isReleased: false,
    broadcaster: new Broadcaster(handle), // hands subscribers this handle, not the runner beneath it
    data: {},
    connect: async () => {
      switch (transaction.state) {
        case 'open':
          return connection.client;
        case 'rolled back':
          throw new TransactionRolledBackError();
        case 'committed':
          isConnected = true;
          return (late ??= dataSource.createQueryRunner()).connect();
      }
    },
    release,
    [Symbol.asyncDispose]: async () => {
      try {
        while (begun.length > 0) {
          await end('commit');
        }
        await late?.[Symbol.asyncDispose]();
      } finally {
        await release();
      }
    },
    query: async (sql: string, parameters?: unknown[], structured?: boolean) => {
      if (TRANSACTION_CONTROL.test(sql)) {
        throw transactionControlError(sql);
      }
      return late === undefined
        ? scope().query(sql, parameters, structured)
        : queryBy(late, sql, parameters, structured);
    },
    stream: async (sql: string, parameters?: unknown[], onEnd?: () => void, onError?: (error: Error) => void) => {
      if (late !== undefined || transaction.state === 'committed') {
        late ??= dataSource.createQueryRunner();
        return late.stream(sql, parameters, onEnd, onError);
      }
      const stream = await scope().stream(sql, parameters);
      if (onEnd !== undefined) {
        stream.on('end', onEnd);
      }
      if (onError !== undefined) {
        stream.on('error', onError);
      }
      return stream;
    },
    startTransaction: async (isolation?: IsolationLevel) => {
      if (late === undefined && transaction.state !== 'committed') {
        const nested = scope().begin(isolation);
        begun.push(nested);
        hasBegun = true;
        // What follows in the caller's flow belongs to the new transaction, also where it uses a repository of its own.
        transactions.presumablyGoInto(nested);
        try {
          return await nested.entered;
        } catch (error) {
          begun.splice(begun.indexOf(nested), 1);
          if ((transaction.state as TransactionState) !== 'committed') {
            throw error;
          }
        }
      }
      late ??= dataSource.createQueryRunner();
      await late.startTransaction(isolation);
    },
    commitTransaction: () => end('commit'),
    rollbackTransaction: () => end('roll back'),
  });
  Object.defineProperty(handle, 'isTransactionActive', {
    get: () =>
      late === undefined
        ? transaction.state !== 'committed' && (begun.length > 0 || owner === 'transaction' || !hasBegun)
        : late.isTransactionActive,
  });

  const manager = dataSource.createEntityManager(handle);
  // After COMMIT it is a manager like the DataSource's own.
  Object.defineProperty(manager, 'queryRunner', {
    get: () => (transaction.state === 'committed' && late === undefined ? undefined : handle),
  });
  scopesOfHandles.set(handle, () => (late === undefined ? scope() : undefined));
  Object.defineProperty(handle, 'manager', {
    get: () => {
      begun.at(-1)?.recogniseFlow();
      return manager;
    },
  });
  return handle;
}

function transactionControlError(sql: string): Error {
  return new Error(
    `"${sql.trim().split(/\s+/, 2).join(' ')}" would end the transaction of this idempotent request. ` +
      'Use DataSource.transaction() or a QueryRunner for a nested transaction; the request itself commits when its response is recorded.',
  );
}
