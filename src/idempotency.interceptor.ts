import { AsyncResource } from 'node:async_hooks';
import { type CallHandler, type ExecutionContext, Injectable, Logger, type NestInterceptor } from '@nestjs/common';
import { EMPTY, Observable, of, type Subscriber } from 'rxjs';
import type { Claim } from './claim.js';
import type { IdempotentRequest, ReplayableResponse } from './claim.service.js';
import { failpoint } from './failpoint.js';
import { FINGERPRINT_VERSION, fingerprintOf, fingerprintRequest } from './http/fingerprint.js';
import { supersedeFailedRun } from './http/held-answer.js';
import { HttpExchange } from './http/http-exchange.js';
import { requestTarget } from './http/http-request.js';
import { parseResolvedKey, readIdempotencyKey } from './http/idempotency-key.js';
import { UnreadBodyError } from './http/unread-body.error.js';
import { provideContext } from './idempotency-context.decorator.js';
import {
  IdempotencyException,
  IdempotencyKeyMalformedException,
  IdempotencyKeyMissingException,
  IdempotencyUnsupportedMediaTypeException,
} from './idempotency.exceptions.js';
import type { RouteOptions } from './idempotency.options.js';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import { exceptionOf, valueLikeThatOf } from './outcome-answers.js';
import { IdempotentExecution } from './idempotent-execution.js';
import { resolveScope } from './scope.js';

/** The HTTP edge. `@Idempotent()` attaches it; there is no need to name it in `@UseInterceptors()`. */
@Injectable()
export class IdempotencyInterceptor implements NestInterceptor {
  private readonly logger = new Logger('Idempotency');

  constructor(private readonly runtime: IdempotencyRuntime) {}

  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    // What an outer interceptor has put into an AsyncLocalStorage for this call is for the handler to find.
    const caller = new AsyncResource('IdempotencyInterceptor');
    return new Observable((subscriber) => {
      caller.runInAsyncScope(() => {
        this.answer(context, next, subscriber).then(
          (answer) => answer.subscribe(subscriber),
          (error: unknown) => subscriber.error(error),
        );
      });
    });
  }

  /** @param outer tells when the outer interceptors have turned away, by a time limit of theirs for instance */
  private async answer(
    context: ExecutionContext,
    next: CallHandler,
    outer: Subscriber<unknown>,
  ): Promise<Observable<unknown>> {
    if (context.getType() !== 'http') {
      throw new Error(`@Idempotent() works on HTTP handlers, not in a context of type "${context.getType()}".`);
    }
    const options = this.runtime.routes.ofContext(context);
    const exchange = new HttpExchange(context);
    failpoint('request: accepted');
    exchange.assertHoldable();
    exchange.withdrawProblem();
    try {
      const resolved = options.key === undefined ? undefined : await options.key(context);
      const key = this.readKey(exchange, options, resolved);
      if (key === undefined) {
        return next.handle();
      }
      const request = await describeRequest(context, key, options);
      const outcome = await this.runtime.claims.claim(request);
      if (outer.closed) {
        // They have answered already, and nobody would ever end the claim.
        await (outcome.kind === 'claimed' && outcome.claim.rollBack());
        return EMPTY;
      }
      switch (outcome.kind) {
        case 'claimed':
          return this.execute(context, next, exchange, request, options, outcome.claim);
        case 'completed':
          return replay(exchange, outcome.response);
        default:
          throw exceptionOf(outcome);
      }
    } catch (error) {
      if (error instanceof IdempotencyException && !outer.closed) {
        exchange.announceProblem(this.dress(error));
      }
      throw error;
    }
  }

  private readKey(exchange: HttpExchange, options: RouteOptions, resolved: unknown): string | undefined {
    const parsed =
      options.key === undefined ? readIdempotencyKey(exchange.request, options.header) : parseResolvedKey(resolved);
    if (parsed.kind === 'missing') {
      if (options.required) {
        throw new IdempotencyKeyMissingException(
          options.key === undefined ? `the header ${options.header}` : 'the place this operation documents',
        );
      }
      return undefined;
    }
    if (parsed.kind === 'malformed') {
      throw new IdempotencyKeyMalformedException(parsed.reason);
    }
    if (options.key === undefined) {
      exchange.response.setHeader(options.header, parsed.raw);
    }
    if (options.keyPattern !== undefined && !matchesWhole(options.keyPattern, parsed.key)) {
      throw new IdempotencyKeyMalformedException('it does not have the form that this operation asks for');
    }
    return parsed.key;
  }

  private execute(
    context: ExecutionContext,
    next: CallHandler,
    exchange: HttpExchange,
    request: IdempotentRequest,
    options: RouteOptions,
    claim: Claim,
  ): Observable<unknown> {
    const execution = new IdempotentExecution(claim, exchange, {
      claims: this.runtime.claims,
      keys: this.runtime.keys,
      request,
      options,
      dress: (exception) => this.dress(exception),
    });
    provideContext(context, execution);
    return execution.run(() => next.handle());
  }

  /** Gives the exception the module's problem types, and the operator its cause: the client does not get to see it. */
  private dress<E extends IdempotencyException>(exception: E): E {
    if (exception.cause !== undefined && exception.getStatus() >= 500) {
      this.logger.error(exception.message, exception.cause);
    }
    return exception.withBaseUrl(this.runtime.problemBaseUrl);
  }
}

const wholePatterns = new WeakMap<RegExp, RegExp>();

/** Anchored rather than compared with the match: of `/a|ab/` the first alternative that matches would win. */
function matchesWhole(pattern: RegExp, key: string): boolean {
  let whole = wholePatterns.get(pattern);
  if (whole === undefined) {
    whole = new RegExp(`^(?:${pattern.source})$`, pattern.flags);
    wholePatterns.set(pattern, whole);
  }
  return whole.test(key);
}

async function describeRequest(
  context: ExecutionContext,
  key: string,
  options: RouteOptions,
): Promise<IdempotentRequest> {
  const request = context.switchToHttp().getRequest<Parameters<typeof requestTarget>[0]>();
  return {
    key,
    scope: await resolveScope(context, options),
    fingerprint:
      typeof options.fingerprint === 'function'
        ? fingerprintOf(await options.fingerprint(context), request)
        : await fingerprintRequest(request, options.fingerprint).catch(refuseUnread),
    fingerprintVersion: FINGERPRINT_VERSION,
    method: request.method,
    path: requestTarget(request).path,
    options,
  };
}

/**
 * Sends the recorded response at once. The outer interceptors still get a value, as near to the handler's as can be
 * had, so that they complete as usual; what comes of it is not sent.
 */
function replay(exchange: HttpExchange, response: ReplayableResponse): Observable<unknown> {
  failpoint('replay: sending');
  supersedeFailedRun(exchange)();
  exchange.replay(response);
  failpoint('replay: sent');
  return of(valueLikeThatOf(response));
}

/** A media type that nothing reads is the client's mistake; anything else that leaves a body unread is the route's. */
function refuseUnread(error: unknown): never {
  if (error instanceof UnreadBodyError && error.unsupportedMediaType !== undefined) {
    throw new IdempotencyUnsupportedMediaTypeException(error.unsupportedMediaType, { cause: error });
  }
  throw error;
}
