import type { EntityManager, QueryRunner } from 'typeorm';
import { type Aftermath, callSite } from '../../util/late-work.js';
import type { PostgresQueryRunner } from '../database-connection.js';
import { RunnerHandle } from './transaction-query-runner.js';
import type { Scope, ScopedTransaction } from './transaction-scope.js';
import type { Send } from './waiting-statement.js';

export const HANDLE = Symbol('handle');
export const HANDLES = Symbol('handles');

/** TypeORM's QueryRunner, with what becomes of it in a transaction of this library. */
export interface JoinableRunner extends PostgresQueryRunner {
  readonly driver: object;
  readonly databaseConnection?: unknown;
  readonly databaseConnectionPromise?: unknown;
  /** Made in a transaction, it belongs to that one. */
  [HANDLE]?: RunnerHandle;
  /** Made before, it belongs to that of the flow which uses it: a service may share it between requests. */
  [HANDLES]?: WeakMap<ScopedTransaction, RunnerHandle>;
}

/** What is known of the running flow, by the driver that it uses. */
export type Surroundings = (driver: object) => FlowState | undefined;

export interface FlowState {
  /** @throws where the transaction of the flow was rolled back */
  scope(): Scope | undefined;
  /** The flow's, whatever became of it. */
  transaction(): ScopedTransaction | undefined;
  /** Where it works on behalf of a request that is over. */
  lateWork(): Aftermath | undefined;
  /** It has stepped outside of any transaction on purpose. */
  readonly isOutside: boolean;
  /** Of one that keeps a connection. */
  readonly needsSecondConnection: boolean;
}

/** Made by code that wants to stay outside, whoever uses them. */
export const outsiders = new WeakSet<object>();

/** Where in the application a runner was made on behalf of a request that is over. */
export const madeAt = new WeakMap<object, string | undefined>();

/** The scope that work of this QueryRunner belongs to; none where it is not one of a transaction that is open. */
export function scopeOfRunner(runner: QueryRunner, surroundings: Surroundings): Scope | undefined {
  const handle = handleOf(runner as JoinableRunner, surroundings);
  return handle === undefined || handle.isLate ? undefined : handle.scope();
}

/** @internal The handle of a runner that was made in a scope. */
export function handleOfJoined(runner: QueryRunner): RunnerHandle {
  return (runner as JoinableRunner)[HANDLE]!;
}

/** Has a runner that was just made belong to the transaction of its flow. */
export function isMade(
  runner: JoinableRunner,
  manager: EntityManager,
  flow: FlowState | undefined,
  replaced: Pick<PostgresQueryRunner, 'startTransaction'> & { query: Send },
): void {
  const scope = flow?.scope();
  if (scope === undefined) {
    // As the assignment would have left it.
    Object.defineProperty(runner, 'manager', { value: manager, writable: true, enumerable: true, configurable: true });
    if (flow?.isOutside) {
      outsiders.add(runner);
    } else if (flow?.lateWork() !== undefined) {
      madeAt.set(runner, callSite()); // for late work: by the time it sends something its caller is not on the stack
    }
    return;
  }
  const handle = new RunnerHandle(scope, 'caller', runner);
  handle.adopt(manager);
  handle.addsToTransactions = runner.startTransaction !== replaced.startTransaction;
  Object.defineProperty(runner, HANDLE, { value: handle });
  if ((runner.query as Send) !== replaced.query) {
    keepTogether(runner, handle);
  }
  Object.defineProperties(runner, JOINED);
  if (Symbol.asyncDispose in runner) {
    Object.defineProperty(runner, Symbol.asyncDispose, DISPOSABLE);
  }
}

/**
 * A class of the application that sends statements of its own before and after each one, such as those that set a tenant
 * and reset it, relies on a connection for itself: nothing of others may come in between.
 */
function keepTogether(runner: JoinableRunner, handle: RunnerHandle): void {
  const query = runner.query as Send;
  const value: Send = (...given) => handle.together(() => query.apply(runner, given));
  Object.defineProperty(runner, 'query', { value, writable: true, configurable: true });
}

export function handleOf(runner: JoinableRunner, surroundings: Surroundings): RunnerHandle | undefined {
  return runner[HANDLE] ?? (isItsOwn(runner) ? undefined : handleInFlow(runner, surroundings(runner.driver)));
}

/** Connected, it is for something else: it listens, or holds a lock. */
function isItsOwn(runner: JoinableRunner): boolean {
  return (
    runner[HANDLES] === undefined &&
    (runner.databaseConnection !== undefined ||
      runner.databaseConnectionPromise !== undefined ||
      runner.isReleased ||
      outsiders.has(runner))
  );
}

function handleInFlow(runner: JoinableRunner, flow: FlowState | undefined): RunnerHandle | undefined {
  const transaction = flow?.transaction();
  const known = transaction && runner[HANDLES]?.get(transaction);
  if (known !== undefined) {
    return known;
  }
  const isFree = runner.databaseConnection === undefined && runner.databaseConnectionPromise === undefined;
  const scope = isFree && !runner.isReleased ? flow?.scope() : undefined;
  if (scope === undefined) {
    return undefined;
  }
  if (runner[HANDLES] === undefined) {
    joinByFlow(runner, flow!);
  }
  const handle = new RunnerHandle(scope.transaction.root, 'caller', runner);
  runner[HANDLES]!.set(scope.transaction, handle);
  return handle;
}

/** Has a runner that was made before the transaction tell of itself what is true in the flow that asks. */
function joinByFlow(runner: JoinableRunner, flow: FlowState): void {
  const handles = new WeakMap<ScopedTransaction, RunnerHandle>();
  const ordinary = { manager: runner.manager, isTransactionActive: runner.isTransactionActive };
  const handle = (): RunnerHandle | undefined => {
    const transaction = flow.transaction();
    return transaction && handles.get(transaction);
  };
  const { broadcaster } = runner;
  Object.defineProperty(runner, HANDLES, { value: handles });
  Object.defineProperties(runner, {
    broadcaster: { ...VISIBLE, get: () => handle()?.broadcaster ?? broadcaster },
    manager: {
      ...VISIBLE,
      get: () => {
        handle()?.recogniseFlow();
        return ordinary.manager;
      },
      set: (manager: EntityManager) => {
        ordinary.manager = manager;
      },
    },
    isTransactionActive: {
      ...VISIBLE,
      get: () => handle()?.isTransactionActive ?? ordinary.isTransactionActive,
      set: (isActive: boolean) => {
        ordinary.isTransactionActive = isActive;
      },
    },
  });
}

const VISIBLE = { configurable: true, enumerable: true } as const;

/** What TypeORM reads of a runner, and sets when it makes one. */
const JOINED: PropertyDescriptorMap & ThisType<Required<JoinableRunner>> = {
  manager: {
    ...VISIBLE,
    get() {
      return this[HANDLE].manager;
    },
    set(manager: EntityManager) {
      this[HANDLE].adopt(manager);
    },
  },
  isTransactionActive: {
    ...VISIBLE,
    get() {
      return this[HANDLE].isTransactionActive;
    },
    set() {
      // Only the handle knows.
    },
  },
  broadcaster: {
    ...VISIBLE,
    get() {
      return this[HANDLE].broadcaster;
    },
  },
  transactionDepth: { ...VISIBLE, writable: true, value: 1 },
};

const DISPOSABLE: PropertyDescriptor & ThisType<Required<JoinableRunner>> = {
  configurable: true,
  value() {
    return this[HANDLE].dispose();
  },
};
