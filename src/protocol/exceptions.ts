// One class for each problem that a client may get, and nothing else: they are read side by side.

import { HttpException, type HttpExceptionOptions } from '@nestjs/common';
import { errorWithoutValues } from '../util/error-without-values.js';
import { RETRY_AFTER_IN_FLIGHT_SECONDS, RETRY_AFTER_UNAVAILABLE_SECONDS } from './constants.js';
import { DEFAULT_OPTIONS, type IdempotencyMode } from './options.js';

/** A problem document (RFC 9457). `type` is the situation's stable identity: clients go by it. */
export interface ProblemDocument {
  type: string;
  title: string;
  status: number;
  detail: string;
  [extension: string]: unknown;
}

interface Situation {
  /** Last part of the problem's `type`. */
  slug: string;
  title: string;
  status: number;
  detail: string;
  retryAfterSeconds?: number;
  extensions?: Record<string, unknown>;
}

/**
 * An answer of the protocol. Goes through the application's exception filters like any `HttpException`; the response
 * already carries `Content-Type: application/problem+json`, which a filter that answers otherwise replaces.
 */
export abstract class IdempotencyException extends HttpException {
  /** Seconds for the `Retry-After` header, where a retry makes sense. */
  readonly retryAfterSeconds: number | undefined;
  private readonly problem: ProblemDocument;

  constructor(
    private readonly situation: Situation,
    options?: HttpExceptionOptions,
  ) {
    const { slug, title, status, detail, extensions } = situation;
    const problem = { type: DEFAULT_OPTIONS.problemBaseUrl + slug, title, status, detail, ...extensions };
    super(problem, status, { ...options, cause: errorWithoutValues(options?.cause) });
    this.message = detail;
    this.problem = problem;
    this.retryAfterSeconds = situation.retryAfterSeconds;
  }

  /** @internal Last part of the problem's `type`. */
  get slug(): string {
    return this.situation.slug;
  }

  /** Sets what the problem's `type` starts with, the module's `problemBaseUrl`. */
  withBaseUrl(baseUrl: string): this {
    this.problem.type = baseUrl + this.situation.slug;
    return this;
  }

  override getResponse(): ProblemDocument {
    return this.problem;
  }
}

/** 400: the route requires a key and the request has none. */
export class IdempotencyKeyMissingException extends IdempotencyException {
  constructor(source: string) {
    super({
      slug: 'key-missing',
      title: 'Idempotency-Key is missing',
      status: 400,
      detail: `This operation requires an idempotency key in ${source}: a new unique value, such as a UUID, for each operation, and the same one for each retry of it.`,
    });
  }
}

/** 400: there is a key, but not one that can be used. */
export class IdempotencyKeyMalformedException extends IdempotencyException {
  /** @param reason a phrase that never holds the key itself */
  constructor(reason: string) {
    super({
      slug: 'key-malformed',
      title: 'Idempotency-Key is malformed',
      status: 400,
      detail: `The idempotency key cannot be used: ${reason}.`,
    });
  }
}

/** 415: there is a body, but nothing that reads its media type, so it can be told from no other. */
export class IdempotencyUnsupportedMediaTypeException extends IdempotencyException {
  constructor(mediaType: string, options?: HttpExceptionOptions) {
    super(
      {
        slug: 'media-type-unsupported',
        title: 'The media type is not supported',
        status: 415,
        detail: `This operation does not read a body of type "${mediaType}".`,
      },
      options,
    );
  }
}

/** 422: the key was used before, for another request. */
export class IdempotencyKeyReusedException extends IdempotencyException {
  constructor() {
    super({
      slug: 'key-reused',
      title: 'Idempotency-Key is already used',
      status: 422,
      detail:
        'This idempotency key was used before with another method, path, query or payload. Repeat the original request unchanged, or use a new key for a new operation.',
    });
  }
}

/** 409: the first request with this key is still running. */
export class IdempotencyRequestInFlightException extends IdempotencyException {
  constructor() {
    super({
      slug: 'request-in-flight',
      title: 'A request is outstanding for this Idempotency-Key',
      status: 409,
      detail: 'The first request with this idempotency key is still being processed. Retry with the same key.',
      retryAfterSeconds: RETRY_AFTER_IN_FLIGHT_SECONDS,
    });
  }
}

/** 409: the operation was carried out, but its response was not kept: too large, or `store: false`. It is not carried out again. */
export class IdempotencyResponseNotKeptException extends IdempotencyException {
  constructor(originalStatus: number, completedAt: Date) {
    super({
      slug: 'response-not-kept',
      title: 'The response to this Idempotency-Key was not kept',
      status: 409,
      detail:
        'The operation with this idempotency key was completed before, but its response was not kept. It is not carried out again.',
      extensions: { original_status: originalStatus, completed_at: completedAt.toISOString() },
    });
  }
}

/** 429: as many requests of this scope as `maxInFlight` allows are being carried out by this process. */
export class IdempotencyTooManyInFlightException extends IdempotencyException {
  constructor() {
    super({
      slug: 'too-many-in-flight',
      title: 'Too many operations at a time',
      status: 429,
      detail: 'Too many operations of this caller are being processed. Retry with the same key.',
      retryAfterSeconds: RETRY_AFTER_IN_FLIGHT_SECONDS,
    });
  }
}

/** 403: `authorizeReplay` says that the caller must not see the recorded response, or not any more. */
export class IdempotencyReplayForbiddenException extends IdempotencyException {
  constructor() {
    super({
      slug: 'replay-forbidden',
      title: 'The recorded response is not for this caller',
      status: 403,
      detail:
        'The operation with this idempotency key was completed before, and its response must not be shown to this caller.',
    });
  }
}

/** 503: the key could not be claimed or recorded. Whatever the handler did in the database was rolled back. */
export class IdempotencyStoreUnavailableException extends IdempotencyException {
  constructor(detail: string, options?: HttpExceptionOptions) {
    super(
      {
        slug: 'store-unavailable',
        title: 'The idempotency store is unavailable',
        status: 503,
        detail: `${detail} Retry with the same key.`,
        retryAfterSeconds: RETRY_AFTER_UNAVAILABLE_SECONDS,
      },
      options,
    );
  }
}

/** 503: the transaction lost against a concurrent one (SQLSTATE 40001 or 40P01) and was rolled back. */
export class IdempotencyConflictException extends IdempotencyException {
  constructor(options?: HttpExceptionOptions) {
    super(
      {
        slug: 'transaction-conflict',
        title: 'The operation met a concurrent one',
        status: 503,
        detail: 'The operation was rolled back because of a concurrent one. Retry with the same key.',
        retryAfterSeconds: RETRY_AFTER_IN_FLIGHT_SECONDS,
      },
      options,
    );
  }
}

/** 503: the handler or its response took longer than the route's `timeoutMs`; in transaction mode it was rolled back. */
export class IdempotencyTimeoutException extends IdempotencyException {
  constructor(timeoutMs: number, mode: IdempotencyMode = 'transaction', options?: HttpExceptionOptions) {
    const consequence =
      mode === 'transaction'
        ? `The operation was rolled back after ${timeoutMs} ms.`
        : `The operation did not end within ${timeoutMs} ms. A retry goes on from its last finished step, once those that run have ended.`;
    const situation = {
      slug: 'timed-out',
      title: 'The operation took too long',
      status: 503,
      detail: `${consequence} Retry with the same key.`,
      retryAfterSeconds: RETRY_AFTER_UNAVAILABLE_SECONDS,
    };
    super(situation, options);
  }
}

/** 409: another attempt has taken this operation over while it was carried out here (lease mode). */
export class IdempotencyLeaseLostException extends IdempotencyException {
  constructor() {
    super({
      slug: 'lease-lost',
      title: 'Another attempt has taken over',
      status: 409,
      detail: 'Another attempt at this operation has taken over. Retry with the same key to get its outcome.',
      retryAfterSeconds: RETRY_AFTER_IN_FLIGHT_SECONDS,
    });
  }
}

/**
 * 409: an earlier attempt was interrupted and must not be repeated by itself (`onInterrupted: 'fail'`), or a step of it has
 * had its effect, or still may, and its result is not known.
 */
export class IdempotencyOutcomeUnknownException extends IdempotencyException {
  /** @param steps whose effect is unknown */
  constructor(steps: readonly string[] = []) {
    const names = steps.map((name) => ` "${name}"`).join(',');
    super({
      slug: 'outcome-unknown',
      title: 'The outcome of the operation is unknown',
      status: 409,
      detail:
        steps.length === 0
          ? 'The operation with this idempotency key was interrupted, and nobody can tell by itself how far it came. It needs a person: contact the operator of this service.'
          : `What came of${names}, a step of the operation with this idempotency key, is unknown, so it is not carried out again. It needs a person: contact the operator of this service.`,
    });
  }
}

/** 409: the code that runs comes by other steps than the code that began this operation (lease mode). */
export class IdempotencyStepsChangedException extends IdempotencyException {
  constructor() {
    super({
      slug: 'steps-changed',
      title: 'The steps of the operation have changed',
      status: 409,
      detail:
        'The operation with this idempotency key was begun by another version of this service, and this version cannot go on with it. It needs a person: contact the operator of this service.',
    });
  }
}

/** 500: the handler left its transaction in a state that cannot be committed. Everything was rolled back. */
export class IdempotencyTransactionFailedException extends IdempotencyException {
  constructor(detail: string, options?: HttpExceptionOptions) {
    super({ slug: 'transaction-failed', title: 'The operation failed', status: 500, detail }, options);
  }
}

/** Work of a handler whose transaction was rolled back: it must not write outside of it. */
export class TransactionRolledBackError extends Error {
  override readonly name = 'TransactionRolledBackError';

  constructor() {
    super(
      'The transaction of this idempotent request was rolled back, so what still runs on its behalf can no longer use the database. ' +
        'Await all work before the handler returns; for writes that must survive a rollback use IdempotencyService.outsideTransaction().',
    );
  }
}

/** The same where the answer to COMMIT was lost, so that it is not known whether what the work belongs to was kept. */
export class TransactionOutcomeUnknownError extends Error {
  override readonly name = 'TransactionOutcomeUnknownError';

  constructor() {
    super(
      'The connection was lost while the transaction of this idempotent request was committed, so it is not known whether it took place, and what still runs on its behalf can no longer use the database. ' +
        'Await all work before the handler returns; for writes that do not depend on the outcome use IdempotencyService.outsideTransaction().',
    );
  }
}
