import type { ServerResponse } from 'node:http';
import type { IdempotencyException } from '../idempotency.exceptions.js';
import type { ReplayHeaders } from '../idempotency.options.js';
import type { HttpExchange } from './http-exchange.js';
import { changedHeaders, type HeaderBaseline, type HeaderLine } from './recorded-response.js';
import { type HeldResponse, ResponseRecorder, type ResponseRecorderOptions } from './response-recorder.js';

/** A run whose handler has failed, or was given up and may still be at work. */
interface FailedRun {
  /** Lets go of the response, and returns what tells of a client that has gone away meanwhile. */
  makeWay(): () => void;
  /** Whether the running code was started by it, or by one before it. */
  isItsCode(): boolean;
}

const failedRuns = new WeakMap<ServerResponse, FailedRun>();

/**
 * Has a run that has failed let go of the response, with nothing left on it: an outer interceptor has run the route
 * again, and what that run has to answer is the only answer.
 *
 * @returns what tells of a client that has gone away meanwhile
 */
export function supersedeFailedRun({ response }: HttpExchange): () => void {
  return failedRuns.get(response)?.makeWay() ?? (() => undefined);
}

/** The one answer of a claimed request: what was held, or something else in its place. Whichever comes first goes out. */
export class HeldAnswer {
  private given = false;
  private readonly baseline: HeaderBaseline;
  private readonly statusBefore: readonly [code: number, message: string];
  private readonly recorder: ResponseRecorder;

  constructor(
    private readonly exchange: HttpExchange,
    private readonly options: Omit<ResponseRecorderOptions, 'isOthersCode'>,
  ) {
    const { response } = exchange;
    const tellClosed = supersedeFailedRun(exchange);
    const isOthersCode = failedRuns.get(response)?.isItsCode;
    this.baseline = exchange.baseline();
    this.statusBefore = [response.statusCode, response.statusMessage];
    this.recorder = new ResponseRecorder(response, { ...options, isOthersCode });
    tellClosed();
  }

  /** The response's end, or the moment its body outgrew the cap. */
  get settled(): Promise<HeldResponse> {
    return this.recorder.settled;
  }

  /** Whether somebody has begun to answer. */
  get begun(): boolean {
    return this.exchange.response.headersSent;
  }

  get status(): number {
    return this.exchange.response.statusCode;
  }

  /** What is stored of the headers. */
  changedHeaders(which: ReplayHeaders | undefined): HeaderLine[] {
    return changedHeaders(this.exchange.response, this.baseline, which);
  }

  /** Puts the headers of a problem onto the response, before an exception filter writes its body. */
  announce(exception: IdempotencyException): void {
    this.exchange.announceProblem(exception);
  }

  /** Whether an answer of `status` is a problem of the protocol, which tells of a request and is none's outcome. */
  isProblem(status: number): boolean {
    return this.exchange.isProblem(status);
  }

  /** Sends what was held. */
  letGo(): void {
    this.give(() => this.recorder.letGo());
  }

  /** Throws away what was held and sends the problem. */
  replaceByProblem(exception: IdempotencyException): void {
    this.give(() => this.recorder.replace(() => this.exchange.sendProblem(exception, this.baseline)));
  }

  /** Throws away what was held and sends the recorded response of another request. */
  replaceByReplay(recorded: { status: number; headers: HeaderLine[]; body: Buffer }): void {
    this.give(() => this.recorder.replace(() => this.exchange.replay(recorded, this.baseline)));
  }

  /** Forgets the headers and the status that the handler set, for it is about to run again. Nobody has begun to answer. */
  rewind(): void {
    const { response } = this.exchange;
    this.exchange.resetTo(this.baseline);
    [response.statusCode, response.statusMessage] = this.statusBefore;
  }

  /** The handler has failed: as long as nothing was sent, another run of the route may answer in its place. */
  yieldToNextRun(onSuperseded: () => void): void {
    const { response } = this.exchange;
    const former = failedRuns.get(response);
    failedRuns.set(response, {
      makeWay: () => {
        let tellClosed = (): void => undefined;
        this.give(() => {
          tellClosed = this.recorder.discard();
          this.rewind();
          onSuperseded();
        });
        return tellClosed;
      },
      isItsCode: () => this.options.isHandlersCode() || (former?.isItsCode() ?? false),
    });
  }

  /** Whether the route can be run again: the parts of an upload are read by an interceptor of it, and only once. */
  get canStartOver(): boolean {
    return !/^multipart\//i.test(this.exchange.request.headers['content-type'] ?? '');
  }

  /** Forgets everything, and has the whole route run again, from its guards on, with a recorder of its own. */
  startOver(): void {
    this.give(() => {
      this.recorder.discard()();
      this.rewind();
      this.exchange.runRouteAgain();
    });
  }

  private give(answer: () => void): void {
    if (!this.given) {
      this.given = true;
      try {
        answer();
      } catch (error) {
        this.exchange.response.destroy(); // headers that Node refuses, say: better no answer than a client that waits
        throw error;
      }
    }
  }
}
