import type { ExecutionContext } from '@nestjs/common';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { HeaderLine } from '../../protocol/response.js';
import type { IdempotencyException } from '../../protocol/exceptions.js';
import type { ReplayHeaders } from '../../protocol/options.js';
import { acceptableTo } from '../content-coding.js';
import { baselineOf, changedHeaders, changedNames, type HeaderBaseline, resetHeaders } from '../recorded-response.js';
import { ignoreViews, ignoreWrites } from './ignored-writes.js';
import { PROBLEM_TYPE, showProblemHeaders } from './problem-headers.js';
import { dispatchAgain, type FrameworkRequest, type FrameworkResponse, routePathOf } from './framework.js';
import { endWith, type Replay, sendRecorded } from './send-recorded.js';
import type { HeldRun } from './held-run.js';
import { ResponseHold } from './response-hold.js';

/** A run of the route that answers by this exchange. */
export interface ExchangeRun extends HeldRun {
  /** What the handler may know and do. */
  readonly context: unknown;
  /** Another run begins: true where this one has failed without an answer and makes way, false where it goes on. */
  makeWay(): boolean;
}

const EXCHANGE = Symbol('idempotency: exchange');
type WithExchange = { [EXCHANGE]?: HttpExchange };

/**
 * Node's own request and response, below the framework's: Fastify wraps them, Express extends them. One a request,
 * whatever the number of its runs.
 *
 * It is long because headers, status and problem of a response are one state: whoever rewinds one rewinds all.
 */
export class HttpExchange {
  /** Starts of the handler by this library for the request; counted here and nowhere else. */
  attempt = 1;
  /** The run that the response belongs to. */
  private run: ExchangeRun | undefined;
  /** What the handler of a request without a key may know and do. */
  private contextWithoutKey: unknown;
  private dispatchesAgain = false;
  private readonly hold: ResponseHold;
  private baseline: HeaderBaseline = new Map();
  private statusBefore: readonly [code: number, message: string] = [0, ''];
  /** The problem that was announced last, and how to take its headers back. */
  private announced: { exception: IdempotencyException; withdraw: () => void } | undefined;
  /** What an exception filter answers. */
  private answering: { exception: unknown } | undefined;

  private constructor(
    readonly request: IncomingMessage,
    readonly response: ServerResponse,
    private readonly frameworkRequest: FrameworkRequest,
    private readonly frameworkResponse: FrameworkResponse,
  ) {
    this.hold = new ResponseHold(response);
    (response as WithExchange)[EXCHANGE] = this;
  }

  static of(context: ExecutionContext): HttpExchange {
    const http = context.switchToHttp();
    const request = http.getRequest<IncomingMessage & FrameworkRequest>();
    const response = http.getResponse<ServerResponse & FrameworkResponse>();
    return (
      HttpExchange.find(response) ??
      new HttpExchange(request.raw ?? request, response.raw ?? response, request, response)
    );
  }

  /** @param response Node's or the framework's; nothing where the library has not met it */
  static find(response: object): HttpExchange | undefined {
    const raw = (response as FrameworkResponse).raw ?? response;
    return (raw as WithExchange)[EXCHANGE];
  }

  /** @throws Error where the response cannot be held back until COMMIT */
  assertHoldable(): void {
    if (this.request.httpVersionMajor > 1) {
      throw new Error(
        '@Idempotent() cannot hold a response over HTTP/2 back. Let a proxy in front of the application speak HTTP/2.',
      );
    }
    if (this.response.headersSent) {
      throw new Error(
        'The response was sent before the handler ran, so it cannot wait for COMMIT. Answer from the handler of an @Idempotent() route.',
      );
    }
  }

  /** Has a run answer by this exchange, in the place of one that has failed; false where another one answers already. */
  begin(run: ExchangeRun): boolean {
    if (!this.supersede()) {
      return false;
    }
    this.attempt = this.dispatchesAgain ? this.attempt + 1 : 1;
    this.dispatchesAgain = false;
    const { response } = this;
    this.run = run;
    this.answering = undefined;
    this.baseline = this.currentHeaders();
    this.statusBefore = [response.statusCode, response.statusMessage];
    this.hold.begin(run);
    return true;
  }

  /** The handler is to run again, as if it had not run before: what its former attempt still writes goes nowhere. */
  beginAgain(former: Pick<HeldRun, 'isItsCode'>): void {
    this.attempt += 1;
    this.hold.disown(former);
    this.hold.startOver();
    this.rewind();
  }

  /**
   * Has a run that has failed let go of the response, with nothing left on it: an outer interceptor has run the route
   * again, and what that run has to answer is the only answer. False where the former run is about to answer itself.
   */
  supersede(): boolean {
    if (this.run !== undefined) {
      if (!this.run.makeWay()) {
        return false;
      }
      this.hold.startOver();
      this.rewind();
      this.run = undefined;
    }
    return true;
  }

  /** @param context what the handler may know and do, of a request that runs unprotected */
  pass(context: unknown): void {
    this.contextWithoutKey = context;
  }

  /** What the handler of the run that answers may know and do. */
  get handlersContext(): unknown {
    return this.run?.context ?? this.contextWithoutKey;
  }

  /** The route's path as the framework's router has it, `/payments/:id`; nothing where it has no single one. */
  get route(): string | undefined {
    return routePathOf(this.frameworkRequest);
  }

  /** Whether somebody has begun to answer. */
  get hasBegun(): boolean {
    return this.response.headersSent;
  }

  get status(): number {
    return this.response.statusCode;
  }

  /** What is being answered is an exception: an exception filter has got it, after every interceptor. */
  get answersException(): boolean {
    return this.answering !== undefined;
  }

  /**
   * What is being answered is a problem of this library, by a filter or by an outer interceptor that has made a value of
   * it: it tells of a request and is none's outcome.
   */
  get answersProblem(): boolean {
    const problem = this.announced?.exception;
    return (
      problem !== undefined &&
      (this.answering === undefined ? problem.getStatus() === this.status : this.answering.exception === problem)
    );
  }

  /** NestJS hands the exception to its filters. */
  exceptionCaught(exception: unknown): void {
    this.answering = { exception };
  }

  /** What is stored of the headers. */
  changedHeaders(which: ReplayHeaders | undefined): HeaderLine[] {
    return changedHeaders(this.response, this.baseline, which, this.hold.headBytes()?.headers);
  }

  /** @throws what Node would throw when what is held is let go */
  assertSendable(): void {
    this.hold.assertSendable();
  }

  /** Sends what was held. @param marks headers that are no part of it */
  letGo(marks: readonly HeaderLine[] = []): void {
    this.orDestroy(() => this.hold.letGo(marks));
  }

  /** Throws away what was held and sends a problem document, without the help of an exception filter. */
  replaceByProblem(exception: IdempotencyException): void {
    this.orDestroy(() =>
      this.hold.replace(() => {
        const { response } = this;
        this.withdrawProblem();
        resetHeaders(response, this.baseline);
        this.announceProblem(exception);
        response.statusCode = exception.getStatus();
        endWith(response, Buffer.from(JSON.stringify(exception.getResponse())));
      }),
    );
  }

  /** A recorded response as this client can take it. */
  async acceptable<Recorded extends Replay>(recorded: Recorded): Promise<Replay> {
    return { status: recorded.status, ...(await acceptableTo(this.request.headers, recorded)) };
  }

  /** Throws away what was held and sends the recorded response of another request. */
  replaceByReplay(recorded: Replay, marks: readonly HeaderLine[]): void {
    this.orDestroy(() => this.hold.replace(() => this.send(recorded, marks, this.baseline)));
  }

  /** Sends a recorded response to this request, whose handler did not run. What is written afterwards goes nowhere. */
  replay(recorded: Replay, marks: readonly HeaderLine[]): void {
    if (this.supersede()) {
      this.hold.discard();
      // With a reply of Fastify's, what it had before goes out, too.
      this.send(recorded, marks, this.frameworkResponse.raw === undefined ? undefined : this.currentHeaders());
      ignoreWrites(this.response);
    } else {
      void recorded.rest?.return?.();
    }
  }

  /** Whether the route can be run again: the parts of an upload are read by an interceptor of it, and only once. */
  get canRunRouteAgain(): boolean {
    return !/^multipart\//i.test(this.request.headers['content-type'] ?? '');
  }

  /**
   * Forgets everything, and runs the route for the same request again, guards and interceptors included, as the
   * framework's router did. Middleware is not run again: what it has read of the request and set on it is still there.
   * An error that gets past the exception filters goes where the framework would have it.
   */
  runRouteAgain(): void {
    const { frameworkRequest, frameworkResponse } = this;
    this.orDestroy(() => {
      this.hold.discard();
      this.rewind();
    });
    this.run = undefined;
    this.dispatchesAgain = true;
    dispatchAgain(frameworkRequest, frameworkResponse);
  }

  /** Has the headers of a problem go out with it, whoever writes its body: mostly an exception filter. */
  announceProblem(exception: IdempotencyException): void {
    const { response } = this;
    if (!response.headersSent) {
      this.withdrawProblem();
      this.announced = { exception, withdraw: showProblemHeaders(response, exception) };
    }
  }

  /** A problem was announced, and may be what is answered. */
  get announcesProblem(): boolean {
    return this.announced !== undefined;
  }

  /** What is sent next has the problem's media type: the status is its status, and nobody has set another type. */
  get showsProblemType(): boolean {
    return this.announced !== undefined && this.frameworkResponse.getHeader?.('Content-Type') === PROBLEM_TYPE;
  }

  /** For a request that is handled anew: an outer interceptor may try again after a problem. */
  withdrawProblem(): void {
    this.announced?.withdraw();
    this.announced = undefined;
  }

  /** The headers the response has so far; Fastify's reply keeps its own until it sends. */
  private currentHeaders(): HeaderBaseline {
    const { response, frameworkResponse } = this;
    return baselineOf(
      response.getHeaders(),
      frameworkResponse.raw === undefined ? {} : (frameworkResponse.getHeaders?.() ?? {}),
    );
  }

  /** Takes headers and status back to what they were before the run, also where Fastify's reply keeps them. */
  private rewind(): void {
    const { response, frameworkResponse, baseline } = this;
    this.withdrawProblem();
    if (frameworkResponse.raw !== undefined) {
      for (const name of changedNames(frameworkResponse.getHeaders?.() ?? {}, baseline)) {
        frameworkResponse.removeHeader?.(name);
      }
    }
    resetHeaders(response, baseline); // from here what the reply had before goes out, too
    [response.statusCode, response.statusMessage] = this.statusBefore;
    this.answering = undefined;
  }

  private send(recorded: Replay, marks: readonly HeaderLine[], baseline: HeaderBaseline | undefined): void {
    this.withdrawProblem();
    sendRecorded(this.response, recorded, marks, baseline);
    if (this.frameworkResponse.raw !== undefined) {
      ignoreViews(this.frameworkResponse);
    }
  }

  /** Headers that Node refuses, say: better no answer than a client that waits. */
  private orDestroy(answer: () => void): void {
    try {
      answer();
    } catch (error) {
      this.response.destroy();
      throw error;
    }
  }
}
