/** The header of draft-ietf-httpapi-idempotency-key-header. */
export const DEFAULT_HEADER = 'Idempotency-Key';

/** Marks a response that was recorded by an earlier request; the draft names no such header. */
export const REPLAYED_HEADER = 'Idempotency-Replayed';

/**
 * Version of the algorithm of fingerprints. It is hashed and stored along with each, so that a later version can tell the
 * rows of an earlier one, and compare with them.
 */
export const FINGERPRINT_VERSION = 1;

/** The same, as an HMAC of it by `fingerprintSecret`. */
export const KEYED_FINGERPRINT_VERSION = 101;

/** Stripe's and the field's common bound; with the scope's it stays below PostgreSQL's 2,704 bytes of an index entry. */
export const MAX_KEY_LENGTH = 255;
export const MAX_SCOPE_LENGTH = 255;

/**
 * What a guard may call the id of `request.user`, in the order of precedence: a database's name for it, a token's
 * (RFC 7519), that of NestJS' own Passport chapter, and what is left of the usual. No name or address, which may change
 * hands, and no account, which several users may share.
 */
export const USER_ID_NAMES = ['id', 'sub', 'userId', 'user_id', 'uid', 'uuid'] as const;

/** A handler that is still running is asked for again soon; the client's own backoff does the rest. */
export const RETRY_AFTER_IN_FLIGHT_SECONDS = 1;

/** A database restarts in seconds; a failed-over one in some more. */
export const RETRY_AFTER_UNAVAILABLE_SECONDS = 2;

/** Beyond this a pool is exhausted rather than busy: better a 503 that can be retried than a request that hangs. */
export const POOL_WAIT_MS = 5_000;

/**
 * The same for a request that keeps a connection already, by a transaction of an interceptor around it: with some of them at
 * a time each may wait for the others, so that a longer wait only costs time.
 */
export const SECOND_CONNECTION_WAIT_MS = 250;

/**
 * PostgreSQL ends a claim's transaction this long after the route's own time limit: only when the application is
 * frozen or cut off, never in competition with the limit itself.
 */
export const TRANSACTION_TIMEOUT_SLACK_MS = 5_000;

/** Keys an instance remembers as taken, to look at them without a claim when they are retried: some 2 MB. */
export const RECENT_KEYS = 10_000;

/** First and longest pause between two looks at a key that another instance holds, for `inFlight: { waitMs }`. */
export const IN_FLIGHT_POLL_MS = { first: 25, longest: 500 } as const;

/** So long a duplicate of a request of this process waits for a connection to ask the table: with all in use it could be for ever. */
export const IN_FLIGHT_LOOK_MS = 250;

/** Tells whether the COMMIT whose answer was lost took place: so often and so far apart the backend is asked for. */
export const OUTCOME_LOOK_UPS = { attempts: 5, pauseMs: 200 } as const;

/** First and longest pause before a handler is run again after a serialization failure or a deadlock. */
export const RERUN_PAUSE_MS = { first: 10, longest: 500 } as const;

/** As much as a response body by default: a step's result is memory for later steps, not a place for documents. */
export const MAX_STEP_BYTES = 1024 * 1024;

/** So long a finished step, or the response, is offered to a database that does not answer: it restarts in seconds. */
export const STORE_PATIENCE_MS = 10_000;

/** So long a shutdown waits for steps whose requests were given up: as long as Kubernetes waits for a process by default. */
export const SHUTDOWN_PATIENCE_MS = 30_000;

/** So long a handler may take to end behind its last step, once its request was given up, before nobody waits for it. */
export const HANDLER_END_PATIENCE_MS = 1_000;

/** So long a lease is tried to be given back; left alone it expires. */
export const RELEASE_PATIENCE_MS = 2_000;

/**
 * So long a failed handler's transaction stays open for what it has left unawaited: some statements, which take
 * milliseconds each, and no polling loop.
 */
export const QUIET_MS = 1_000;

/**
 * So long after its handler has settled, and its transaction has ended, work on behalf of a rolled-back request is
 * refused: longer than the call to elsewhere that a `Promise.all()` has left running, and the usual first retries, take
 * to come to their write; twice as long as anything waits for a connection. What was made or woken in the request
 * carries its context, too, and may serve others for the life of the process: it must not fail for longer than that.
 */
export const REFUSED_FOR_MS = 10_000;

/** So long the server may take to end a statement that it was asked to cancel: it takes milliseconds where it is alive. */
export const CANCEL_WAIT_MS = 2_000;
