import { type Observable, type Subscriber, tap } from 'rxjs';
import type { HttpExchange } from '../http/response/http-exchange.js';
import { type WatchedResponse, watchResponse } from '../http/response/response-watch.js';
import type { StoredKeys } from '../postgres/statements/stored-keys.js';
import type { RouteOptions } from '../protocol/options.js';
import type { IdempotentRequest, RequestWithoutKey } from '../protocol/request.js';
import type { Claims } from './claims.js';
import { contextOf } from './handler-context.js';
import type { KeylessRequest } from './keyless-request.js';
import type { ObservedReport } from './observed-report.js';
import type { Observer } from './observer.js';
import { type HandlerEnd, verdictOn } from './verdict.js';

interface Surroundings {
  readonly claims: Claims;
  readonly keys: StoredKeys;
  readonly observer: Observer;
  readonly options: RouteOptions;
  /** `PaymentsController.create` */
  readonly route: string;
  /** Absent where nobody listens. */
  readonly report: ObservedReport | undefined;
}

/** How the request is read. */
interface Description {
  /** Nothing where it has no key. @throws what another mode would answer */
  read(): Promise<IdempotentRequest | undefined>;
  /** For one without a key, and one that another mode would refuse. */
  withoutKey(): Promise<RequestWithoutKey>;
}

/**
 * One run of a request in observe mode: the handler runs as it would without the library, in no transaction, and its
 * response goes out as it is written. What another mode would have made of it is found out behind its end.
 */
export class ObservedRun {
  private readonly startedAt = performance.now();
  private request: IdempotentRequest | undefined;
  private handlerEnd: HandlerEnd | undefined;
  private watched: WatchedResponse | undefined;
  private endedAt = 0;
  private isTurnedAway = false;

  constructor(
    private readonly exchange: HttpExchange,
    private readonly around: Surroundings,
    private readonly handle: () => Observable<unknown>,
    private readonly outer: Subscriber<unknown>,
  ) {}

  async begin(description: Description): Promise<void> {
    const described = await this.describe(description);
    if (this.isTurnedAway) {
      return;
    }
    const { claims, keys, observer, options, route, report } = this.around;
    const claim = claims.withoutKey(options, `${described.method} ${described.path}`);
    this.exchange.pass(contextOf({ request: identified(described, claim), attempt: 1, claim }, keys));
    if (described.key !== undefined) {
      this.request = described;
      observer.begin(described, options, route, report);
      watchResponse(this.exchange.response, (watched) => this.responseEnded(watched));
    } else {
      report?.end('unprotected');
    }
    claim
      .run(this.handle)
      .pipe(
        tap({
          complete: () => this.handlerEnded('returned'),
          error: () => this.handlerEnded('failed'),
          unsubscribe: () => this.handlerEnded('given up'),
        }),
      )
      .subscribe(this.outer);
  }

  /** An outer interceptor has turned away. */
  unsubscribed(): void {
    this.isTurnedAway = true;
  }

  private async describe({ read, withoutKey }: Description): Promise<IdempotentRequest | RequestWithoutKey> {
    try {
      this.exchange.assertHoldable();
      return (await read()) ?? (await withoutKey());
    } catch (error) {
      this.around.observer.tellRefused(this.around.route, error, this.around.report);
      return withoutKey();
    }
  }

  private handlerEnded(how: HandlerEnd): void {
    this.handlerEnd ??= how;
    this.settleWhenEnded();
  }

  private responseEnded(watched: WatchedResponse): void {
    this.watched = watched;
    this.endedAt = performance.now();
    this.settleWhenEnded();
  }

  private settleWhenEnded(): void {
    const { request, handlerEnd, watched, startedAt, endedAt } = this;
    if (request === undefined || handlerEnd === undefined || watched === undefined) {
      return;
    }
    this.request = undefined; // once
    const { observer, options, route, report } = this.around;
    const ranBeside = observer.end(request);
    const writer = this.exchange.answersException ? 'error' : 'framework';
    const verdict = verdictOn(handlerEnd, writer, watched.status, options.storeErrors);
    const isOutcome = verdict === 'record' || verdict === 'record the error';
    observer.settle({ request, options, route, report, response: watched, isOutcome, ranBeside, startedAt, endedAt });
  }
}

/** What the handler's context says of its request. */
function identified(described: IdempotentRequest | RequestWithoutKey, { seed }: KeylessRequest) {
  if (described.key !== undefined) {
    return described;
  }
  const { scope } = described;
  return {
    key: undefined,
    get scope() {
      return scope();
    },
    seed,
  };
}
