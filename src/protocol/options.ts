// Long by what it says of each option: the one place where they are documented and have their defaults.

import type { ExecutionContext } from '@nestjs/common';
import type { IdempotencyEvent } from './events.js';
import { DEFAULT_HEADER, REPLAYED_HEADER } from './constants.js';

export type IsolationLevel = 'READ UNCOMMITTED' | 'READ COMMITTED' | 'REPEATABLE READ' | 'SERIALIZABLE';

/** Takes a value from the request; may be async. */
export type Resolver<T> = (context: ExecutionContext) => T | Promise<T>;

/** What a duplicate meets while the first request still runs: 409 at once, or a wait of at most `waitMs` before it. */
export type InFlightPolicy = 'reject' | { waitMs: number };

/**
 * What makes a key and its operation one: a transaction that the handler runs in, or, for a handler with effects outside
 * of PostgreSQL, a lease and the handler's durable steps.
 */
export type IdempotencyMode = HoldingMode | 'observe';

/** Those that hold a key while its handler runs. */
export type HoldingMode = 'transaction' | 'lease';

/** What a retry finds whose earlier attempt never ended, in lease mode. */
export type InterruptionPolicy = 'resume' | 'fail';

/** What a request meets whose caller cannot be told. */
export type SharedScopePolicy = 'warn' | 'error';

/**
 * Fields of the body that a retry need not repeat, or the only ones that it must. Each is a path of names with dots
 * between them, `'meta.sentAt'`; in an array it is looked for in each element. In a form the names of files count, too.
 *
 * What is not there or not an object is taken as it is, and where a body has none of the fields to pick all of it counts.
 */
export type FingerprintFields = { omit: string[]; pick?: undefined } | { pick: string[]; omit?: undefined };

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

/** A response as it is about to be recorded. */
export interface RecordedResponse {
  status: number;
  headers: readonly (readonly [name: string, value: string | null])[];
  body: Buffer;
}

/** What is to be stored in the place of it; what is left out stays as it is. */
export interface RedactedResponse {
  headers?: [name: string, value: string | null][];
  body?: Buffer | string;
}

/** What `authorizeReplay` is told of a recorded response. */
export interface ReplayableRecord {
  scope: string;
  status: number;
  recordedAt: Date;
}

export interface EncryptionOptions {
  /** AES-256 keys by their ids, 32 bytes each, or the base64 of them. Those that are no longer used to encrypt stay as long as records are kept. */
  keys: Record<string, string | Uint8Array>;
  /** Which of them encrypts. Without it nothing new is encrypted, and what is can be read. */
  currentKeyId?: string;
}

/** Options of a route; the module sets their defaults for all routes. */
export interface IdempotentOptions {
  /**
   * `'transaction'` for handlers whose effects are in PostgreSQL: all of them and the response commit together.
   * `'lease'` for handlers with effects elsewhere: no transaction is open while they run, and steps that have finished
   * are not repeated.
   *
   * `'observe'` protects nothing: the handler runs as it would without the library, also for a retry, and the log says
   * what another mode would have answered. For the time before clients may rely on a route. @default 'transaction'
   */
  mode?: IdempotencyMode;

  /**
   * How long another attempt waits for one whose process has died, in milliseconds; renewed while it lives. For lease
   * mode. 100 to 3,600,000. @default 30000 (30 s)
   */
  leaseMs?: number;

  /**
   * How long a step may run, in milliseconds, whatever has become of its request. It keeps its lease for so long; one that
   * has not ended by then hangs, and since nobody can tell whether it still acts, its key waits for an operator. For steps
   * by `ctx.step()` in lease mode; those by `ctx.transaction()` are undone 5 s after `timeoutMs`. 1 to 2,147,000,000.
   * @default 600000 (10 min)
   */
  stepTimeoutMs?: number;

  /**
   * How much all results of an operation's steps may take as JSON, in bytes, before no further one is begun: a retry reads
   * them all at once. For lease mode. 1 to 104,857,600. @default 8388608 (8 MiB)
   */
  maxStepsBytes?: number;

  /**
   * What becomes of an operation whose process has died, in lease mode: `'resume'` runs the handler again with its
   * finished steps remembered; `'fail'` answers 409 until an operator calls `IdempotencyService.resolve()` or
   * `.release()`. @default 'resume'
   */
  onInterrupted?: InterruptionPolicy;

  /** Name of the request header that carries the key. @default 'Idempotency-Key' */
  header?: string;

  /** Name of the response header that marks a replay, `true`. @default 'Idempotency-Replayed' */
  replayedHeader?: string;

  /**
   * Name of a response header that tells until when the key is kept, as an HTTP-date (RFC 9110, section 5.6.7): on what is
   * recorded and on its replays, which say the same; `false` for none. @default false
   */
  expiresHeader?: string | false;

  /** Takes the key from elsewhere, such as a webhook's event id; nothing or '' counts as a missing key. @default the header */
  key?: Resolver<string | null | undefined>;

  /** What a key must look like, beyond 1 to 255 printable ASCII characters; tested against the whole key. @default any */
  keyPattern?: RegExp;

  /** Whether a request without a key is refused (400); otherwise its handler runs unprotected. @default true */
  required?: boolean;

  /**
   * Whose key it is: the same key in two scopes is two keys. At most 255 characters, '' for one scope that all share.
   * @default the first of `id`, `sub`, `userId`, `user_id`, `uid`, `uuid` that `request.user` has; without a user the
   * shared scope
   */
  scope?: Resolver<string>;

  /**
   * What becomes of a request without a `scope` and without a `request.user`: `'warn'` puts it into the scope that all
   * such callers share, and says so once a route; `'error'` answers 500. @default 'warn'
   */
  sharedScope?: SharedScopePolicy;

  /**
   * What must be equal in a retry, beside method and path: what a resolver returns, or query and body but for some
   * fields. @default query and body
   */
  fingerprint?: Resolver<unknown> | FingerprintFields;

  /** How long a key is kept, in milliseconds, by the database's clock from the moment it is recorded. 1 to 10 years. @default 86400000 (24 h) */
  ttlMs?: number;

  /** What a duplicate meets while the first request still runs; `waitMs` is 1 to 60,000. @default 'reject' */
  inFlight?: InFlightPolicy;

  /**
   * Which statuses of a thrown error are stored and replayed; the handler's writes are undone all the same. Never
   * asked for 500 and above, which are not stored. In lease mode it also says which errors of a step are remembered.
   * @default none
   */
  storeErrors?: (status: number) => boolean;

  /**
   * Isolation level of the handler's transaction, in lease mode of those of its steps (PostgreSQL manual, 13.2).
   * @default the DataSource's
   */
  isolation?: IsolationLevel;

  /** How often the handler, or in lease mode the step, is run again after a serialization failure or a deadlock. 0 to 20. @default 0 */
  retries?: number;

  /**
   * Time the handler and its response may take, in milliseconds; then the request is answered with 503, and rolled
   * back, or in lease mode given up. 1 to 2,147,000,000. @default 30000 (30 s)
   */
  timeoutMs?: number;

  /**
   * Whether responses are stored; where they are not, a retry is told that the operation was completed (409).
   * @default true
   */
  store?: boolean;

  /**
   * Takes out of a response what must not be stored; the client of the first request gets all of it, a retry what is left.
   * What it throws rolls the request back. @default nothing is taken out
   */
  redact?: (response: RecordedResponse) => RedactedResponse | Promise<RedactedResponse>;

  /**
   * Whether the caller may see a recorded response, asked at each replay; otherwise the answer is 403. Guards have run by
   * then, pipes and the handler have not. @default yes
   */
  authorizeReplay?: (context: ExecutionContext, record: ReplayableRecord) => boolean | Promise<boolean>;

  /**
   * How many requests with a key one scope may have under way in this process, those that wait included; the next one is
   * answered with 429. 1 to 100,000. @default no limit
   */
  maxInFlight?: number;

  /** Largest response body that is stored, in bytes; a larger one is sent, but cannot be replayed. 0 to 104,857,600. @default 1048576 (1 MiB) */
  maxBodyBytes?: number;

  /**
   * Most bytes of a response that are held in memory while they have to be: those that a handler writes before it
   * returns (`@Res()`), and those read from its transaction. Beyond it the request is answered with 500 and rolled back.
   * Not less than `maxBodyBytes` is held. 0 to 1,073,741,824. @default 33554432 (32 MiB)
   */
  maxHeldBytes?: number;

  /**
   * Response headers to store beyond, or other than, the usual: all that were set once the handler had begun, but for
   * those of one message (`Date`, `Server-Timing`) and credentials (`Set-Cookie`, `WWW-Authenticate`, `X-CSRF-Token`,
   * `X-Auth-Token`, `X-Api-Key` and the like). @default no others
   */
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

  /**
   * Is told of every transition of a request, as subscribers of the channel `IDEMPOTENCY_CHANNEL` are. It runs beside the
   * request, outside of its transaction: what it throws is logged, and a promise is not waited for. @default nothing
   */
  onEvent?: (event: IdempotencyEvent) => unknown;

  /**
   * What the hashes of scopes and keys in events are made with, at least 16 characters: one for all instances makes them
   * comparable. @default another one each time the process starts
   */
  hashSecret?: string;

  /**
   * Makes fingerprints that nobody can find by trying bodies, at least 16 characters: for bodies of few possible values.
   * Another one refuses retries of what was recorded before (422). @default plain SHA-256
   */
  fingerprintSecret?: string;

  /** Encrypts what is stored of responses and of steps by AES-256-GCM. @default plain */
  encryption?: EncryptionOptions;

  /** The scheduled deletion of expired keys, or `false` for none. @default every 10 minutes, 1000 rows a statement */
  purge?: false | PurgeOptions;

  /**
   * Says that no handler writes to tables that Citus keeps on other nodes. Without it plain tables of keys are refused at
   * boot where there are such tables: the two would not commit together. @default false
   */
  localWrites?: boolean;
}

/** Every default, once. */
export const DEFAULT_OPTIONS = {
  mode: 'transaction',
  leaseMs: 30_000, // longer than any pause of a healthy process, shorter than the patience of a client that retries
  stepTimeoutMs: 10 * 60 * 1000, // longer than any client waits for an answer, so than any provider takes to give it
  maxStepsBytes: 8 * 1024 * 1024, // eight results of the largest size: a retry holds them all at once
  onInterrupted: 'resume',
  header: DEFAULT_HEADER,
  replayedHeader: REPLAYED_HEADER,
  expiresHeader: false,
  required: true,
  ttlMs: 24 * 60 * 60 * 1000, // as long as Stripe keeps a key: a client that retries for a day is still answered
  inFlight: 'reject',
  sharedScope: 'warn',
  store: true,
  retries: 0,
  timeoutMs: 30_000,
  maxBodyBytes: 1024 * 1024,
  maxHeldBytes: 32 * 1024 * 1024, // a default pool of ten requests then holds 320 MiB at the most
  problemBaseUrl: 'urn:nestjs-idempotency:',
  purge: { intervalMs: 10 * 60 * 1000, batchSize: 1000 },
  localWrites: false,
} as const satisfies IdempotencyModuleOptions;

const DEFAULTED = [
  'mode',
  'leaseMs',
  'stepTimeoutMs',
  'maxStepsBytes',
  'onInterrupted',
  'header',
  'replayedHeader',
  'expiresHeader',
  'required',
  'ttlMs',
  'inFlight',
  'sharedScope',
  'store',
  'retries',
  'timeoutMs',
  'maxBodyBytes',
  'maxHeldBytes',
] as const satisfies (keyof IdempotentOptions)[];

type Defaulted = (typeof DEFAULTED)[number];

/** A route's options with everything filled in that has a default. */
export type RouteOptions = Omit<IdempotentOptions, Defaulted> & Required<Pick<IdempotentOptions, Defaulted>>;

/** Method over class over module over default; an option given as `undefined` counts as not given. */
export function mergeRouteOptions(...given: (IdempotentOptions | undefined)[]): RouteOptions {
  const merged = Object.fromEntries(DEFAULTED.map((name) => [name, DEFAULT_OPTIONS[name]])) as unknown as RouteOptions;
  for (const options of given) {
    Object.assign(merged, withoutUndefined(options ?? {}));
  }
  return merged;
}

export function withoutUndefined<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>;
}
