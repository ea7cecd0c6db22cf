import { AsyncLocalStorage } from 'node:async_hooks';
import type { PoolClient } from 'pg';
import type { DataSource, EntityManager } from 'typeorm';
import type { IsolationLevel } from '../../protocol/options.js';
import { DatabaseConnection, type PostgresQueryRunner } from '../database-connection.js';
import { deferCaching } from './deferred-cache.js';
import { runnerReplacements } from './joined-runner.js';
import { type FlowState, scopeOfRunner } from './runner-handles.js';
import { type Aftermath, aftermathOfHandler } from '../../util/late-work.js';
import { onNobodysBehalf } from '../../util/request-storage.js';
import { bindLazyRelations } from './lazy-relations.js';
import { managerReplacements } from './nested-transaction.js';
import { PoolGuard, poolOf } from './pool-guard.js';
import { baseClassOf, replaceOnce } from './replacing.js';
import type { Scope, ScopedTransaction, ScopeFlows } from './transaction-scope.js';

/** Where the code of an asynchronous flow is, for sure or by presumption. */
interface Inside {
  readonly scope: Scope;
  readonly presumed: boolean;
}

/** It has stepped outside on purpose: of a transaction, or of none. */
interface Outside {
  readonly outsideOf: ScopedTransaction | undefined;
}

type Place = Inside | Outside;

/** What all applications on one DataSource share. */
interface Shared {
  readonly current: AsyncLocalStorage<Place | undefined>;
  /** Waited for before the connections are closed. */
  readonly untilIdle: Set<() => Promise<void>>;
}

const sharedBy = new WeakMap<DataSource, Shared>();

/** All that are in use: each of few DataSources, for each of few applications. */
const installed = new Set<AmbientTransactions>();

function surroundings(driver: object): AmbientTransactions | undefined {
  for (const transactions of installed) {
    if (transactions.serve(driver)) {
      return transactions;
    }
  }
  return undefined;
}

const TRANSACTION_EVENTS = [
  'beforeTransactionStart',
  'afterTransactionStart',
  'beforeTransactionCommit',
  'afterTransactionCommit',
  'beforeTransactionRollback',
  'afterTransactionRollback',
] as const;

/**
 * Makes a DataSource transaction-aware: within {@link AmbientTransaction.run} every repository, manager, query builder,
 * runner and `DataSource.transaction()` of it uses the one transaction. What is replaced is in the classes of its driver
 * and managers, for all DataSources together, and asks whose driver it is; the DataSource itself, which applications
 * copy and wrap, stays as it is.
 *
 * It is long because installing, asking where a flow is, and taking back are about the same few fields.
 */
export class AmbientTransactions implements FlowState, ScopeFlows {
  private readonly shared: Shared;
  private readonly restore: (() => void)[];
  private untilIdle: (() => Promise<void>) | undefined;
  private readonly pools = new PoolGuard((work) => this.onNobodysBehalf(work));

  constructor(readonly dataSource: DataSource) {
    this.shared = sharedBy.get(dataSource) ?? { current: new AsyncLocalStorage(), untilIdle: new Set() };
    sharedBy.set(dataSource, this.shared);
    const runners = baseClassOf(dataSource.createQueryRunner(), 'query') as PostgresQueryRunner;
    const managers = baseClassOf(dataSource.manager, 'transaction') as EntityManager;
    this.restore = [
      replaceOnce(runners, () => runnerReplacements(runners, surroundings)),
      replaceOnce(managers, () => managerReplacements(managers, surroundings)),
    ];
    this.pools.guard(this.dataSource.driver);
    bindLazyRelations(dataSource.relationLoader, () => this.transaction()?.reader);
    if (dataSource.queryResultCache !== undefined) {
      deferCaching(
        dataSource.queryResultCache,
        (runner) => (runner && scopeOfRunner(runner, surroundings)) ?? this.scope(),
        (work) => this.outside(work),
        () => this.dataSource.createQueryRunner('master'),
      );
    }
    installed.add(this);
  }

  get hasSubscribers(): boolean {
    return this.dataSource.subscribers.length > 0;
  }

  /** Whether a subscriber listens to statements. */
  get announcesQueries(): boolean {
    return this.dataSource.subscribers.some(({ beforeQuery, afterQuery }) => beforeQuery ?? afterQuery);
  }

  /** Whether a subscriber listens to transactions. */
  get announcesTransactions(): boolean {
    return this.dataSource.subscribers.some((subscriber) => TRANSACTION_EVENTS.some((event) => subscriber[event]));
  }

  /** The level TypeORM itself would begin a transaction with. */
  get defaultIsolation(): IsolationLevel | undefined {
    const { options } = this.dataSource;
    return 'isolationLevel' in options ? (options.isolationLevel as IsolationLevel | undefined) : undefined;
  }

  get isPoolExhausted(): boolean {
    const pool = poolOf(this.dataSource.driver);
    return pool !== undefined && pool.idleCount === 0 && pool.totalCount >= pool.options.max;
  }

  /** Has the DataSource wait for `idle` before it closes its connections, whoever closes it. */
  closeAfter(idle: () => Promise<void>): void {
    this.untilIdle = idle;
    const { untilIdle } = this.shared;
    untilIdle.add(idle);
    if (untilIdle.size > 1) {
      return; // it waits already
    }
    const destroy = this.dataSource.destroy.bind(this.dataSource);
    const value = async (): Promise<void> => {
      await Promise.all([...untilIdle].map((isIdle) => isIdle()));
      await destroy();
    };
    // Not for those who copy a DataSource: what they make is not theirs to close.
    Object.defineProperty(this.dataSource, 'destroy', { value, writable: true, configurable: true, enumerable: false });
  }

  /** Gives TypeORM its own ways back, unless another application has still need of it. */
  uninstall(): void {
    installed.delete(this);
    this.restore.forEach((restore) => restore());
    this.pools.leave();
    const { untilIdle } = this.shared;
    if (this.untilIdle !== undefined && untilIdle.delete(this.untilIdle) && untilIdle.size === 0) {
      Reflect.deleteProperty(this.dataSource, 'destroy');
    }
  }

  /** @internal Whether a driver is that of the DataSource, or one that shares its connections. */
  serve(driver: object): boolean {
    const own = this.dataSource.driver;
    return driver === own || (poolOf(driver) !== undefined && poolOf(driver) === poolOf(own));
  }

  /** Takes a connection to the primary out of the pool. */
  async connect(): Promise<DatabaseConnection> {
    this.pools.guard(this.dataSource.driver);
    const runner = this.outside(() => this.dataSource.createQueryRunner('master')) as PostgresQueryRunner;
    const client = (await this.onNobodysBehalf(() => runner.connect())) as PoolClient;
    return new DatabaseConnection(runner, client);
  }

  /** Runs `work`, which makes something for all, without the running code's request. */
  onNobodysBehalf<T>(work: () => T): T {
    return this.current.exit(() => onNobodysBehalf(work));
  }

  /** Runs `work` with ordinary connections, outside of any transaction of this library. */
  outside<T>(work: () => T): T {
    return this.current.run({ outsideOf: this.transaction() ?? this.steppedOutOf }, work);
  }

  /** @internal */
  enter<T>(scope: Scope, work: () => T): T {
    return this.current.run({ scope, presumed: false }, work);
  }

  /** @internal Whether the running flow is in `scope`, and not only presumed to be. */
  isSurelyIn(scope: Scope): boolean {
    const place = this.current.getStore();
    return isInside(place) && !place.presumed && place.scope === scope;
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
  transaction(): ScopedTransaction | undefined {
    const place = this.current.getStore();
    return isInside(place) ? place.scope.transaction : undefined;
  }

  /** For what is done by ordinary connections on behalf of a request that is over, as the running code is. */
  lateWork(): Aftermath | undefined {
    const transaction = this.transaction();
    return transaction === undefined && !this.isOutside ? aftermathOfHandler() : transaction?.lateWork;
  }

  /** Whether the running code has stepped outside on purpose. */
  get isOutside(): boolean {
    const place = this.current.getStore();
    return place !== undefined && !isInside(place);
  }

  /** Whether the running code has stepped out of a transaction that keeps its connection meanwhile. */
  get needsSecondConnection(): boolean {
    return this.steppedOutOf?.isOver === false;
  }

  private get steppedOutOf(): ScopedTransaction | undefined {
    const place = this.current.getStore();
    return place === undefined || isInside(place) ? undefined : place.outsideOf;
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
    if (!isInside(place)) {
      return undefined;
    }
    return place.presumed ? place.scope.forPresumed() : place.scope.live();
  }

  private get current(): Shared['current'] {
    return this.shared.current;
  }
}

function isInside(place: Place | undefined): place is Inside {
  return place !== undefined && 'scope' in place;
}
