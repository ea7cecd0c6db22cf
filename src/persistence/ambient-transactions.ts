import { AsyncLocalStorage } from 'node:async_hooks';
import type { Pool, PoolClient } from 'pg';
import type { DataSource, EntityManager, QueryRunner, ReplicationMode } from 'typeorm';
import type { IsolationLevel } from '../idempotency.options.js';
import type { AmbientTransaction } from './ambient-transaction.js';
import { DatabaseConnection, type PostgresQueryRunner } from './database-connection.js';
import { deferCaching } from './deferred-cache.js';
import { bindLazyRelations } from './lazy-relations.js';
import { scopeOfRunner } from './transaction-query-runner.js';
import type { Scope, TransactionArguments } from './transaction-scope.js';

/** The DataSources that are transaction-aware: all managers share one `transaction()`. */
const installed = new WeakMap<DataSource, AmbientTransactions>();
const awareManagers = new WeakSet<object>();

/** Where the code of an asynchronous flow is, for sure or by presumption. */
interface Place {
  readonly scope: Scope;
  readonly presumed: boolean;
}

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
    bindLazyRelations(dataSource.relationLoader, () => this.transaction()?.reader);
    if (dataSource.queryResultCache !== undefined) {
      deferCaching(
        dataSource.queryResultCache,
        (runner) => (runner && scopeOfRunner(runner)) ?? this.scope(),
        (work) => this.outside(work),
      );
    }
    nestTransactions(Object.getPrototypeOf(dataSource.manager) as EntityManager);
  }

  /** The level TypeORM itself would begin a transaction with. */
  get defaultIsolation(): IsolationLevel | undefined {
    const { options } = this.dataSource;
    return 'isolationLevel' in options ? (options.isolationLevel as IsolationLevel | undefined) : undefined;
  }

  get isPoolExhausted(): boolean {
    const pool = poolOf(this.dataSource);
    return pool !== undefined && pool.idleCount === 0 && pool.totalCount >= pool.options.max;
  }

  /** Has the DataSource wait for `idle` before it closes its connections, whoever closes it. */
  closeAfter(idle: () => Promise<void>): void {
    const destroy = this.dataSource.destroy.bind(this.dataSource);
    this.dataSource.destroy = async () => {
      await idle();
      await destroy();
    };
  }

  /** Gives the DataSource its own ways back. */
  uninstall(): void {
    Reflect.deleteProperty(this.dataSource, 'createQueryRunner');
    Reflect.deleteProperty(this.dataSource, 'destroy');
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
    this.transaction()?.assertNotLost();
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
    const scope = queryRunner === undefined ? installed.get(this.dataSource)?.scope() : scopeOfRunner(queryRunner);
    return scope === undefined ? ordinary.apply(this, given) : scope.nest(...given);
  }
  managers.transaction = transaction as EntityManager['transaction'];
}
