import type { ExecutionContext } from '@nestjs/common';
import { DEFAULT_HEADER } from './idempotency.constants.js';

export type IsolationLevel = 'READ UNCOMMITTED' | 'READ COMMITTED' | 'REPEATABLE READ' | 'SERIALIZABLE';

/** Takes a value from the request; may be async. */
export type Resolver<T> = (context: ExecutionContext) => T | Promise<T>;

/** What a duplicate meets while the first request still runs: 409 at once, or a wait of at most `waitMs` before it. */
export type InFlightPolicy = 'reject' | { waitMs: number };

export interface ReplayHeaders {
  /** Names to store although they are left out by default, such as `Set-Cookie`. */
  keep?: string[];
  /** Further names never to store, such as a header that carries a secret. */
  drop?: string[];
}

export interface PurgeOptions {
  /** Pause between two purges, in milliseconds; jittered by a tenth. 1,000 to 86,400,000. @default 600000 */
  intervalMs?: number;
  /** Rows deleted by one statement. 1 to 100,000. @default 1000 */
  batchSize?: number;
}

/** Options of a route; the module sets their defaults for all routes. */
export interface IdempotentOptions {
  /** Name of the request header that carries the key. @default 'Idempotency-Key' */
  header?: string;

  /** Takes the key from elsewhere, such as a webhook's event id; nothing or '' counts as a missing key. @default the header */
  key?: Resolver<string | null | undefined>;

  /** What a key must look like, beyond 1 to 255 printable ASCII characters; tested against the whole key. @default any */
  keyPattern?: RegExp;

  /** Whether a request without a key is refused (400); otherwise its handler runs unprotected. @default true */
  required?: boolean;

  /**
   * Whose key it is: the same key in two scopes is two keys. At most 255 characters, '' for one scope that all share.
   * @default `request.user.id`, else `request.user.sub`; without a user the shared scope
   */
  scope?: Resolver<string>;

  /** What must be equal in a retry, beside method and path. @default query and body */
  fingerprint?: Resolver<unknown>;

  /** How long a key is kept, in milliseconds, by the database's clock from the moment it is recorded. 1 to 10 years. @default 86400000 (24 h) */
  ttlMs?: number;

  /** What a duplicate meets while the first request still runs; `waitMs` is 1 to 60,000. @default 'reject' */
  inFlight?: InFlightPolicy;

  /**
   * Which statuses of a thrown error are stored and replayed; the handler's writes are undone all the same. Never
   * asked for 500 and above, which are not stored. @default none
   */
  storeErrors?: (status: number) => boolean;

  /** Isolation level of the handler's transaction (PostgreSQL manual, 13.2). @default the DataSource's */
  isolation?: IsolationLevel;

  /** How often the handler is run again after a serialization failure or a deadlock. 0 to 20. @default 0 */
  retries?: number;

  /** Time the handler and its response may take, in milliseconds; then all is rolled back (503). 1 to 2,147,000,000. @default 30000 (30 s) */
  timeoutMs?: number;

  /** Largest response body that is stored, in bytes; a larger one is sent, but cannot be replayed. 0 to 104,857,600. @default 1048576 (1 MiB) */
  maxBodyBytes?: number;

  /** Response headers to store beyond, or other than, the usual. @default those that the handler and its surroundings set */
  replayHeaders?: ReplayHeaders;
}

/** Options of `IdempotencyModule.forRoot()`. */
export interface IdempotencyModuleOptions extends IdempotentOptions {
  /** Name of the TypeORM DataSource whose transactions carry the keys. @default the default DataSource */
  dataSource?: string;

  /** PostgreSQL schema of the table. @default the DataSource's `schema` */
  schema?: string;

  /** What the `type` of a problem document starts with, a URL or URN. @default 'urn:nestjs-idempotency:' */
  problemBaseUrl?: string;

  /** The scheduled deletion of expired keys, or `false` for none. @default every 10 minutes, 1000 rows a statement */
  purge?: false | PurgeOptions;
}

/** Every default, once. */
export const DEFAULT_OPTIONS = {
  header: DEFAULT_HEADER,
  required: true,
  ttlMs: 24 * 60 * 60 * 1000, // as long as Stripe keeps a key: a client that retries for a day is still answered
  inFlight: 'reject',
  retries: 0,
  timeoutMs: 30_000,
  maxBodyBytes: 1024 * 1024,
  problemBaseUrl: 'urn:nestjs-idempotency:',
  purge: { intervalMs: 10 * 60 * 1000, batchSize: 1000 },
} as const satisfies IdempotencyModuleOptions;

type Defaulted = 'header' | 'required' | 'ttlMs' | 'inFlight' | 'retries' | 'timeoutMs' | 'maxBodyBytes';

/** A route's options with everything filled in that has a default. */
export type RouteOptions = Omit<IdempotentOptions, Defaulted> & Required<Pick<IdempotentOptions, Defaulted>>;

/** Method over class over module over default; an option given as `undefined` counts as not given. */
export function mergeRouteOptions(...given: (IdempotentOptions | undefined)[]): RouteOptions {
  const { header, required, ttlMs, inFlight, retries, timeoutMs, maxBodyBytes } = DEFAULT_OPTIONS;
  const merged: RouteOptions = { header, required, ttlMs, inFlight, retries, timeoutMs, maxBodyBytes };
  for (const options of given) {
    Object.assign(merged, withoutUndefined(options ?? {}));
  }
  return merged;
}

function withoutUndefined<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>;
}
