/**
 * The channel of `node:diagnostics_channel` on which every {@link IdempotencyEvent} of this process is published. What a
 * subscriber throws is an uncaught exception by Node's rule: the option `onEvent` is the place for who wants it logged.
 */
export const IDEMPOTENCY_CHANNEL = 'nestjs-idempotency';

/**
 * What becomes of a request. Of its run `claimed` comes each time the handler is about to start, and exactly one of the
 * others at the end, but for `lease-taken-over`, which comes beside `claimed`.
 *
 * - `claimed`: the key is this request's; its handler starts
 * - `lease-taken-over`: it is that of an earlier attempt whose lease has run out
 * - `recorded`: response and writes are committed
 * - `error-stored`: the response to an error is committed, the writes are undone (`storeErrors`)
 * - `rolled-back`: nothing is recorded, the key is free
 * - `run-again`: nothing is recorded, the handler or its whole route starts anew (`retries`)
 * - `replayed`: the recorded response went out
 * - `not-kept`: 409, the key has its outcome, but no body was kept
 * - `in-flight`: 409, the first request still runs
 * - `mismatch`: 422, the key was used for another request
 * - `interrupted`: 409, an earlier attempt waits for an operator
 * - `steps-changed`: 409, the code no longer comes by the steps of an earlier attempt
 * - `lease-lost`: 409, another attempt has taken over meanwhile
 * - `conflict`: 503, a concurrent transaction was in the way
 * - `timed-out`: 503, `timeoutMs` is over
 * - `store-unavailable`: 503, the key could not be claimed, or its record is lost
 * - `limited`: 429, the scope has `maxInFlight` requests under way
 * - `replay-refused`: 403, `authorizeReplay` has said no
 * - `missing`, `malformed`: 400, of the key
 * - `refused`: any other refusal before the handler ran
 * - `unprotected`: there is no key, and none is required
 * - `given-up`: an outer interceptor has turned away before the handler ran
 */
export type RequestEventType =
  | 'claimed'
  | 'lease-taken-over'
  | 'recorded'
  | 'error-stored'
  | 'rolled-back'
  | 'run-again'
  | 'replayed'
  | 'not-kept'
  | 'in-flight'
  | 'mismatch'
  | 'interrupted'
  | 'steps-changed'
  | 'lease-lost'
  | 'conflict'
  | 'timed-out'
  | 'store-unavailable'
  | 'limited'
  | 'replay-refused'
  | 'missing'
  | 'malformed'
  | 'refused'
  | 'unprotected'
  | 'given-up';

/** Of which request, without what it has sent. */
export interface EventSource {
  readonly method: string;
  /** As the router has it, `/payments/:id`. */
  readonly route: string;
  readonly mode: 'transaction' | 'lease';
  /** 32 hexadecimal digits of an HMAC-SHA256 by `hashSecret`; absent before the key was read. */
  readonly scopeHash?: string;
  /** The same of scope and key together. */
  readonly keyHash?: string;
  /** Starts of the handler so far; 0 before the first. */
  readonly attempt: number;
}

export interface RequestEvent extends EventSource {
  readonly type: RequestEventType;
  /** From the key's acceptance until it was claimed, replayed or refused, waiting included. In milliseconds. */
  readonly claimMs?: number;
  /** Of the handler's last run, in milliseconds. */
  readonly handlerMs?: number;
  /** Of record and COMMIT, in milliseconds. */
  readonly recordMs?: number;
  /** Of the response, where it is known here. */
  readonly status?: number;
  /** Of the response's body, as it was recorded or replayed; for one that was not kept, those that were counted. */
  readonly bodyBytes?: number;
  /** Of a record: whether retries can be answered by it. */
  readonly bodyKept?: boolean;
  /** Of a replay: the `traceparent` of the request that was carried out, where that was traced. */
  readonly originalTrace?: string;
  /** Last part of the problem document's `type`. */
  readonly problem?: string;
}

/** A step of lease mode has ended well, or was remembered from an earlier attempt. */
export interface StepEvent extends EventSource {
  readonly type: 'step-run' | 'step-remembered';
  /** As it stands in the code: without the item's `key`. */
  readonly step: string;
  /** Of one that was run, with what makes it durable; in milliseconds. */
  readonly stepMs?: number;
}

/**
 * What another mode would have made of a request in observe mode, whose handler has run all the same: one for each, once it
 * has ended, or at once where another mode would have refused it.
 */
export interface ObservedEvent {
  readonly type: 'observed';
  readonly method: string;
  /** As the router has it, `/payments/:id`. */
  readonly route: string;
  readonly mode: 'observe';
  /** As in {@link EventSource}. */
  readonly scopeHash?: string;
  readonly keyHash?: string;
  /** The end that another mode would have published; `in-flight` also where it would have waited (`inFlight`). */
  readonly outcome: ObservedOutcome;
  /** What the client was answered, where the response has ended. */
  readonly status?: number;
  /** Of one that would have been replayed: whether its handler has answered the same, status and body. */
  readonly isSame?: boolean;
}

export type ObservedOutcome = Extract<
  RequestEventType,
  | 'recorded'
  | 'rolled-back'
  | 'replayed'
  | 'in-flight'
  | 'mismatch'
  | 'not-kept'
  | 'missing'
  | 'malformed'
  | 'refused'
  | 'unprotected'
  | 'store-unavailable'
>;

/** One DELETE of the purge. */
export interface PurgeEvent {
  readonly type: 'purge-batch';
  readonly deleted: number;
  readonly durationMs: number;
  /** Whether another process purges, so that this one has left it the work. */
  readonly locked: boolean;
}

export type IdempotencyEvent = RequestEvent | StepEvent | ObservedEvent | PurgeEvent;
