import { AsyncResource } from 'node:async_hooks';
import { type CallHandler, type ExecutionContext, Injectable, type NestInterceptor, Optional } from '@nestjs/common';
import { Observable, type Subscriber, type TeardownLogic } from 'rxjs';
import type { IdempotentRequest, RequestWithoutKey } from './protocol/request.js';
import type { EventPublisher } from './requests/event-publisher.js';
import { RunReport } from './requests/run-report.js';
import { failpoint } from './util/failpoint.js';
import { fingerprintOf, fingerprintRequest, keyedFingerprint } from './http/fingerprint.js';
import { FINGERPRINT_VERSION, KEYED_FINGERPRINT_VERSION } from './protocol/constants.js';
import { requestTarget } from './http/http-request.js';
import { parseResolvedKey, readIdempotencyKey } from './http/idempotency-key.js';
import { HttpExchange } from './http/response/http-exchange.js';
import { UnreadBodyError } from './http/unread-body.error.js';
import { isCallOnClass } from './idempotency-class.interceptor.js';
import {
  IdempotencyKeyMalformedException,
  IdempotencyKeyMissingException,
  IdempotencyUnsupportedMediaTypeException,
} from './protocol/exceptions.js';
import type { HoldingMode, RouteOptions } from './protocol/options.js';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import { ObservedRun } from './requests/observed-run.js';
import { COPY } from './two-copies.js';
import { OWN_PACKAGE } from './util/installed.js';
import { RequestRun } from './requests/request-run.js';
import { resolveScope } from './http/scope.js';

/**
 * The HTTP edge. `@Idempotent()` attaches it; there is no need to name it in `@UseInterceptors()`. A test that is about
 * something else replaces it: `overrideInterceptor(IdempotencyInterceptor)`.
 */
@Injectable()
export class IdempotencyInterceptor implements NestInterceptor {
  /** @internal For other copies of this library, whose module it does not know. */
  static readonly [COPY] = { package: OWN_PACKAGE };

  /** @internal @param runtime absent where the module is not imported, in a unit test of a controller for instance */
  constructor(@Optional() private readonly runtime?: IdempotencyRuntime) {}

  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    if (isCallOnClass(context, this)) {
      return next.handle();
    }
    // What an outer interceptor has put into an AsyncLocalStorage for this call is for the handler to find.
    const caller = new AsyncResource('IdempotencyInterceptor');
    return new Observable((outer) => caller.runInAsyncScope(() => this.run(context, next, outer)));
  }

  /** @param outer tells when the outer interceptors have turned away, by a time limit of theirs for instance */
  private run(context: ExecutionContext, next: CallHandler, outer: Subscriber<unknown>): TeardownLogic {
    if (context.getType() !== 'http') {
      throw new Error(`@Idempotent() works on HTTP handlers, not in a context of type "${context.getType()}".`);
    }
    const runtime = this.assertModule(context);
    const { routes, claims, keys, observer, problemBaseUrl, events, encryption, scopeLimits } = runtime;
    const options = routes.ofContext(context);
    const exchange = HttpExchange.of(context);
    if (options.mode === 'observe') {
      const around = { claims, keys, observer, options, route: routeOf(context) };
      const observed = new ObservedRun(exchange, around, () => next.handle(), outer);
      void observed.begin({
        read: () => this.describe(context, exchange, options),
        withoutKey: () => describeWithoutKey(context, options),
      });
      return () => observed.unsubscribed();
    }
    failpoint('request: accepted');
    exchange.assertHoldable();
    exchange.withdrawProblem();
    const report = events.isHeard ? reportOf(events, context, exchange, options.mode) : undefined;
    const traceContext = runtime.traceContext?.();
    const around = { claims, keys, options, problemBaseUrl, report, encryption, scopeLimits, context, traceContext };
    const run = new RequestRun(exchange, around, () => next.handle(), outer);
    void run.begin(() => this.describe(context, exchange, options));
    return () => run.unsubscribed();
  }

  /** @internal */
  get hasModule(): boolean {
    return this.runtime !== undefined;
  }

  /** @internal @throws Error where the handler would run unprotected */
  assertModule(context: ExecutionContext): IdempotencyRuntime {
    if (this.runtime === undefined) {
      throw new Error(
        `@Idempotent() of ${routeOf(context)}: IdempotencyModule is not there. Add IdempotencyModule.forRoot() to the imports of the root module.`,
      );
    }
    return this.runtime;
  }

  /** What is asked for, and under which key. */
  private async describe(
    context: ExecutionContext,
    exchange: HttpExchange,
    options: RouteOptions,
  ): Promise<IdempotentRequest | RequestWithoutKey> {
    const resolved = options.key === undefined ? undefined : await options.key(context);
    const key = this.readKey(exchange, options, resolved);
    return key === undefined
      ? describeWithoutKey(context, options)
      : describeRequest(context, key, options, this.runtime?.options.fingerprintSecret);
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
    if (options.key === undefined && options.mode !== 'observe') {
      exchange.response.setHeader(options.header, parsed.raw);
    }
    if (options.keyPattern !== undefined && !matchesWhole(options.keyPattern, parsed.key)) {
      throw new IdempotencyKeyMalformedException('it does not have the form that this operation asks for');
    }
    return parsed.key;
  }
}

/** For messages: `PaymentsController.create`. */
function routeOf(context: ExecutionContext): string {
  return `${context.getClass().name}.${context.getHandler().name}`;
}

function reportOf(
  events: EventPublisher,
  context: ExecutionContext,
  { request, route }: HttpExchange,
  mode: HoldingMode,
): RunReport {
  return new RunReport(events, { method: request.method ?? '', route: route ?? routeOf(context), mode });
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
  fingerprintSecret: string | undefined,
): Promise<IdempotentRequest> {
  const request = context.switchToHttp().getRequest<Parameters<typeof requestTarget>[0]>();
  const scope = await resolveScope(context, options);
  const plain =
    typeof options.fingerprint === 'function'
      ? fingerprintOf(await options.fingerprint(context), request)
      : await fingerprintRequest(request, options.fingerprint).catch(refuseUnread);
  return {
    key,
    scope,
    ...fingerprintBy(fingerprintSecret, plain),
    method: request.method,
    path: requestTarget(request).path,
    options,
  };
}

function fingerprintBy(
  secret: string | undefined,
  plain: Buffer,
): Pick<IdempotentRequest, 'fingerprint' | 'fingerprintVersion' | 'keyed'> {
  if (secret === undefined) {
    return { fingerprint: plain, fingerprintVersion: FINGERPRINT_VERSION };
  }
  const keyed = (fingerprint: Buffer): Buffer => keyedFingerprint(fingerprint, secret);
  return { fingerprint: keyed(plain), fingerprintVersion: KEYED_FINGERPRINT_VERSION, keyed };
}

/** Whose it is matters only to a handler that asks: one that cannot be told must not keep it from running. */
async function describeWithoutKey(context: ExecutionContext, options: RouteOptions): Promise<RequestWithoutKey> {
  const request = context.switchToHttp().getRequest<Parameters<typeof requestTarget>[0]>();
  const scope = await resolveScope(context, options).then(
    (value) => () => value,
    (error: unknown) => () => {
      throw error;
    },
  );
  return { scope, method: request.method, path: requestTarget(request).path };
}

/** A media type that nothing reads is the client's mistake; anything else that leaves a body unread is the route's. */
function refuseUnread(error: unknown): never {
  if (error instanceof UnreadBodyError && error.unsupportedMediaType !== undefined) {
    throw new IdempotencyUnsupportedMediaTypeException(error.unsupportedMediaType, { cause: error });
  }
  throw error;
}
