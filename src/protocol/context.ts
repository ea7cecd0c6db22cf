import type { EntityManager } from 'typeorm';
import type { Serialized } from './serialized.js';
import type { StepOptions } from './step-call.js';
import type { StoredKey } from './stored-key.js';

/**
 * What a handler may know of its idempotent request, and do for it. A request without a key, where the route does not
 * require one, has the same: its handler runs unprotected, and its steps run straight through.
 *
 * @typeParam Key `IdempotencyContext<string | undefined>` on a route with `required: false`
 */
export interface IdempotencyContext<Key extends string | undefined = string> extends IdempotencyExecutionTools {
  /** `undefined` where the request has none. */
  readonly key: Key;
  readonly scope: string;
  /** 1, and one more each time the handler is run again; in lease mode also by a retry, after an attempt that failed. */
  readonly attempt: number;
  /**
   * Works in the request's transaction, as every repository and manager of the DataSource does by itself; in lease mode
   * it is the DataSource's own.
   */
  readonly manager: EntityManager;
  /** Aborted when the request is given up while the handler runs: its time is up, or its lease is lost. */
  readonly signal: AbortSignal;
  /**
   * Runs `callback` once the transaction has committed, in lease mode the response was recorded, and the response was
   * let go; never after a rollback, nor where the nested transaction around the call is undone. In
   * {@link IdempotencyExecutionTools.transaction} it runs after that transaction's COMMIT, at most once for all attempts.
   * An error in it is logged. Without a key it runs once the handler has succeeded. It is lost when the process dies before: work that must not be lost belongs in the
   * transaction. Any service has the same by `IdempotencyService.afterCommit`.
   */
  afterCommit(callback: () => unknown): void;
  /**
   * A key for a provider's own idempotency header: the same for each attempt at `step`, and for no other step or key.
   * It closes the gap between the provider's answer and the memory of the step. A UUID. It is another one once a provider
   * keeps an error under it: see `newKeyAfter` of {@link StepOptions}. Without a key it is another one for
   * each request.
   */
  downstreamKey(step: string, options?: Pick<StepOptions, 'key'>): string;
  /** What is known of another key of this {@link scope}; see `IdempotencyService.find()`. */
  find(key: string): Promise<StoredKey | undefined>;
  /** Deletes another key of this {@link scope}, at once, whatever becomes of this request; see `IdempotencyService.forget()`. */
  forget(key: string): Promise<boolean>;
}

/** Its options may stand behind `run` as well. */
export interface StepMethod<Arguments extends unknown[] = []> {
  <T>(name: string, run: (...args: Arguments) => T | Promise<T>, options?: StepOptions): Promise<Serialized<T>>;
  <T>(name: string, options: StepOptions, run: (...args: Arguments) => T | Promise<T>): Promise<Serialized<T>>;
}

/** With `as` it gives what `run` has returned: instances, not their JSON. */
export interface TransactionMethod extends StepMethod<[manager: EntityManager]> {
  <T>(
    name: string,
    options: StepOptions & Required<Pick<StepOptions, 'as'>>,
    run: (manager: EntityManager) => T | Promise<T>,
  ): Promise<T>;
  <T>(
    name: string,
    run: (manager: EntityManager) => T | Promise<T>,
    options: StepOptions & Required<Pick<StepOptions, 'as'>>,
  ): Promise<T>;
}

/** What durable steps are made of, for lease mode; in transaction mode both throw. */
export interface IdempotencyExecutionTools {
  /**
   * Runs `run` and stores what it returns, as JSON of at most 1 MiB, or throws, where `storeErrors` accepts that. A later
   * attempt gets the same without running it. Steps are known by their names, 1 to 255 characters, each used once; in a
   * loop the option `key` tells them apart. They do not nest. They may run side by side; those that run one after another
   * do so in the same order in each attempt.
   *
   * `run` happens at most once an attempt. When the process dies between its effect and the storing, a later attempt
   * runs it again: hand {@link IdempotencyContext.downstreamKey} to whoever has the effect.
   *
   * @throws DurableStepError when a name or the result cannot be used
   * @throws IdempotencyStepsChangedException before a new step, where the code has passed by one that is remembered
   * @throws IdempotencyLeaseLostException when another attempt has taken over
   * @throws IdempotencyStoreUnavailableException when the result cannot be stored
   */
  readonly step: StepMethod<[]>;
  /**
   * A step whose writes and whose result commit in one transaction: exactly once. All use of the DataSource inside of
   * `run` joins the transaction; its `isolation` and `retries` are the route's.
   *
   * What class-transformer hides of a class (`@Exclude()`) is not hidden by ClassSerializerInterceptor any more once it is plain
   * data: before COMMIT an instance of such a class is refused, unless `as` says what it is.
   */
  readonly transaction: TransactionMethod;
}
