import { AsyncResource } from 'node:async_hooks';
import { type CallHandler, type ExecutionContext, Injectable, type NestInterceptor, Optional } from '@nestjs/common';
import { Observable, type Subscriber, type TeardownLogic } from 'rxjs';
import type { EventPublisher } from './requests/event-publisher.js';
import { RunReport } from './requests/run-report.js';
import { failpoint } from './util/failpoint.js';
import { HttpExchange } from './http/response/http-exchange.js';
import { isCallOnClass } from './idempotency-class.interceptor.js';
import type { HoldingMode } from './protocol/options.js';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import { ObservedReport } from './requests/observed-report.js';
import { ObservedRun } from './requests/observed-run.js';
import { COPY } from './two-copies.js';
import { OWN_PACKAGE } from './util/installed.js';
import { describeWithoutKey, readRequest, routeOf } from './request-reading.js';
import { RequestRun } from './requests/request-run.js';

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
    const { routes, claims, keys, observer, expectedReplays, events, encryption, scopeLimits } = runtime;
    const { problemBaseUrl, fingerprintSecret } = runtime.settings;
    const options = routes.ofContext(context);
    const exchange = HttpExchange.of(context);
    const source = { context, raw: exchange.request, options, fingerprintSecret };
    const withoutKey = () => describeWithoutKey(context, options);
    if (options.mode === 'observe') {
      const report = events.isHeard ? new ObservedReport(events, sourceOf(context, exchange)) : undefined;
      const around = { claims, keys, observer, options, route: routeOf(context), report };
      const observed = new ObservedRun(exchange, around, () => next.handle(), outer);
      void observed.begin({
        read: () => readRequest(source),
        withoutKey,
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
    const echo = (key: string) => exchange.response.setHeader(options.header, key);
    void run.begin(async () => {
      const request = await readRequest({ ...source, echo });
      return request === undefined ? withoutKey() : expectedReplays.meet(exchange.request, request);
    });
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
