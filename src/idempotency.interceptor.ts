import { AsyncResource } from 'node:async_hooks';
import { type CallHandler, type ExecutionContext, Injectable, type NestInterceptor, Optional } from '@nestjs/common';
import { Observable, type Subscriber, type TeardownLogic } from 'rxjs';
import type { IdempotentRequest, RequestWithoutKey } from './protocol/request.js';
import type { EventPublisher } from './requests/event-publisher.js';
import { RunReport } from './requests/run-report.js';
import { failpoint } from './util/failpoint.js';
import type { ParsedKey } from './http/idempotency-key.js';
import { HttpExchange } from './http/response/http-exchange.js';
import { isCallOnClass } from './idempotency-class.interceptor.js';
import { IdempotencyKeyMalformedException, IdempotencyKeyMissingException } from './protocol/exceptions.js';
import type { HoldingMode, RouteOptions } from './protocol/options.js';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import { ObservedReport } from './requests/observed-report.js';
import { ObservedRun } from './requests/observed-run.js';
import { COPY } from './two-copies.js';
import { OWN_PACKAGE } from './util/installed.js';
import { describeRequest, describeWithoutKey, hasForm, readKey, routeOf } from './request-reading.js';
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
    const { routes, claims, keys, observer, settings, events, encryption, scopeLimits } = runtime;
    const { problemBaseUrl } = settings;
    const options = routes.ofContext(context);
    const exchange = HttpExchange.of(context);
    if (options.mode === 'observe') {
      const report = events.isHeard ? new ObservedReport(events, sourceOf(context, exchange)) : undefined;
      const around = { claims, keys, observer, options, route: routeOf(context), report };
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
    const key = this.acceptedKey(await readKey(context, exchange.request, options), exchange, options);
    if (key === undefined) {
      return describeWithoutKey(context, options);
    }
    const { expectedReplays, settings } = this.runtime!;
    const scope = await resolveScope(context, options);
    const request = await describeRequest(context, key, scope, options, settings.fingerprintSecret);
    return expectedReplays.meet(exchange.request, request);
  }

  /** @throws what another key, or any, would have to be sent for */
  private acceptedKey(parsed: ParsedKey, exchange: HttpExchange, options: RouteOptions): string | undefined {
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
    if (!hasForm(parsed.key, options)) {
      throw new IdempotencyKeyMalformedException('it does not have the form that this operation asks for');
    }
    return parsed.key;
  }
}

function reportOf(
  events: EventPublisher,
  context: ExecutionContext,
  exchange: HttpExchange,
  mode: HoldingMode,
): RunReport {
  return new RunReport(events, { ...sourceOf(context, exchange), mode });
}

function sourceOf(context: ExecutionContext, { request, route }: HttpExchange): { method: string; route: string } {
  return { method: request.method ?? '', route: route ?? routeOf(context) };
}
