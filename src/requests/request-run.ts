import { Logger, StreamableFile } from '@nestjs/common';
import { lastValueFrom, map, type Observable, type Subscriber, toArray } from 'rxjs';
import type { Claim, Recorded } from '../modes/claim.js';
import type { Outcome } from '../modes/outcome.js';
import type { IdempotentRequest, RequestWithoutKey } from '../protocol/request.js';
import type { ReplayableResponse } from '../protocol/response.js';
import { errorWithoutValues } from '../util/error-without-values.js';
import type { RunFacts } from './run-report.js';
import { failpoint } from '../util/failpoint.js';
import type { ExchangeRun, HttpExchange } from '../http/response/http-exchange.js';
import type { HeldResponse } from '../http/response/kept-response.js';
import type { Writer } from '../http/response/writer.js';
import type { IdempotencyContext } from '../protocol/context.js';
import {
  IdempotencyConflictException,
  IdempotencyException,
  IdempotencyTimeoutException,
  IdempotencyTooManyInFlightException,
} from '../protocol/exceptions.js';
import { isRetryable } from '../postgres/sqlstate.js';
import { delay, rerunPauseMs } from '../util/timing.js';
import { contextOf } from './handler-context.js';
import { refuseFunctions } from './returned-function.js';
import { exceptionOf, expiryMarks, replayMarks, valueLikeThatOf } from './outcome-answers.js';
import { failedAfterItsAnswer, failureOfRecord, outgrown, RunProblems } from './run-problems.js';
import type { RunSurroundings } from './run-surroundings.js';
import { runWithoutKey } from './run-without-key.js';
import { openedResponse, sealedResponse } from './sealed-response.js';
import { after, type Event, isEnd, type State } from './request-states.js';
import { type HandlerEnd, verdictOn } from './verdict.js';

/**
 * One run of a request, from its key to its answer: claims the key, runs the handler in the claim's transaction, holds
 * its response, and lets it go once its outcome is recorded. Its states are those of {@link State}; the response's end
 * and the handler's are waited for both.
 *
 * It is long because the machine is one: whatever moves its state is in this class, each method being what one event does.
 * What needs no state is in files of its own beside it.
 */
export class RequestRun implements ExchangeRun {
  private static readonly logger = new Logger('Idempotency');

  request!: IdempotentRequest;
  claim!: Claim;
  private state: State = 'received';
  private handlersContext: IdempotencyContext<string | undefined> | undefined;
  private hasFailed = false;
  private hasValue = false;
  private undone: Promise<void> | undefined;
  private held: HeldResponse | undefined;
  private storesError = false;
  private isCounted = false;
  private replayed: RunFacts['response'];
  private readonly problems: RunProblems;
  private timer: NodeJS.Timeout | undefined;

  /**
   * @param handle starts the handler
   * @param outer what the handler returns reaches the outer interceptors as if nothing were in between
   */
  constructor(
    private readonly exchange: HttpExchange,
    private readonly around: RunSurroundings,
    private readonly handle: () => Observable<unknown>,
    private readonly outer: Subscriber<unknown>,
  ) {
    this.problems = new RunProblems(exchange, around.problemBaseUrl);
  }

  /** @param describe reads the request */
  async begin(describe: () => Promise<IdempotentRequest | RequestWithoutKey>): Promise<void> {
    try {
      const request = await describe();
      if (this.state !== 'received') {
        return;
      }
      if (request.key === undefined) {
        this.on('no key');
        runWithoutKey(this.exchange, this.around, request, this.handle, this.outer);
        return;
      }
      this.request = request;
      request.traceContext = this.around.traceContext;
      request.onStep = this.around.report && ((step, ms) => this.around.report!.step(step, this.facts, ms));
      this.on('key accepted');
      this.assertRoom();
      await this.meet(await this.around.claims.claim(request));
    } catch (error) {
      this.refuse(error);
    }
  }

  get context(): IdempotencyContext<string | undefined> {
    return (this.handlersContext ??= contextOf(this, this.around.keys));
  }

  get attempt(): number {
    return this.claim.attempt ?? this.exchange.attempt;
  }

  get maxBodyBytes(): number {
    return this.around.options.maxBodyBytes;
  }

  /** With a value returned it is the framework that writes, be it from the context of a stream the handler opened. */
  isItsCode(): boolean {
    return !this.hasValue && this.claim.isRunning;
  }

  get maxHeldBytes(): number {
    const { maxBodyBytes, maxHeldBytes } = this.around.options;
    return Math.max(maxBodyBytes, maxHeldBytes);
  }

  mustHoldOn(): boolean {
    return this.isHandlerRunning || (this.state === 'returned' && this.claim.isBeingRead);
  }

  /** @throws IdempotencyTooManyInFlightException */
  private assertRoom(): void {
    const { scopeLimits, options } = this.around;
    if (options.maxInFlight !== undefined) {
      if (!scopeLimits.enter(this.request.scope, options.maxInFlight)) {
        throw new IdempotencyTooManyInFlightException();
      }
      this.isCounted = true;
    }
  }

  private get isHandlerRunning(): boolean {
    return this.state === 'running' || this.state === 'answered';
  }

  writer(): Writer {
    if (this.exchange.answersProblem) {
      return 'problem';
    }
    if (this.exchange.answersException) {
      return 'error';
    }
    return this.isItsCode() ? 'handler' : 'framework';
  }

  responseEnded(response: HeldResponse): void {
    this.held = response;
    this.hasFailed ||= this.state === 'pausing'; // somebody further out has answered before the handler ran again
    this.on('response ended');
    this.decideWhenEnded();
  }

  responseOutgrown(): void {
    const exception = outgrown(this.maxHeldBytes);
    const wasRunning = this.isHandlerRunning;
    this.claim.abort(exception);
    const presented = this.problems.present(exception);
    this.on('response outgrown');
    this.exchange.replaceByProblem(presented);
    if (wasRunning) {
      this.outer.error(exception);
    }
  }

  /** An outer interceptor has run the route again: who can claim the key then shows that this claim is over. */
  makeWay(): boolean {
    if (this.state === 'failed') {
      this.on('next run');
      void this.claim.rollBack();
    }
    return this.state === 'superseded';
  }

  /** An outer interceptor has turned away before the handler was done: a time limit of its own, for instance. */
  unsubscribed(): void {
    switch (this.state) {
      case 'received':
      case 'claiming':
        this.on('outer gone');
        break;
      case 'running':
      case 'answered':
      case 'pausing':
        this.hasFailed = true;
        if (this.around.options.storeErrors === undefined) {
          this.claim.abort(new Error('an outer interceptor gave the handler up'));
        } else {
          this.undone = this.claim.undoWrites();
        }
        this.on('outer gone');
        this.decideWhenEnded();
        break;
    }
  }

  /** Goes on from what the key holds. */
  private async meet(outcome: Outcome): Promise<void> {
    if (this.state !== 'claiming' && this.state !== 'pausing') {
      // The outer interceptors, or the time limit, have answered meanwhile, and nobody would ever end the claim.
      await (outcome.kind === 'claimed' && outcome.claim.rollBack());
      return;
    }
    switch (outcome.kind) {
      case 'claimed':
        await this.startAttempt(outcome.claim);
        break;
      case 'completed':
        await this.replay(outcome.response);
        break;
      default:
        this.refuse(exceptionOf(outcome));
    }
  }

  /** The one place where an attempt begins, with nothing left of the one before it. */
  private async startAttempt(claim: Claim): Promise<void> {
    this.claim = claim;
    if (this.state === 'claiming' && !this.exchange.begin(this)) {
      this.on('outer gone'); // a former run is about to answer
      await claim.rollBack();
      this.outer.complete();
      return;
    }
    this.timer ??= setTimeout(() => this.timeOut(), this.around.options.timeoutMs);
    this.on('claimed');
    failpoint('handler: starting');
    // Buffered until the last value is there: what is not delivered yet can be run again.
    claim
      .run(() => lastValueFrom(this.handle().pipe(toArray(), map(refuseFunctions))))
      .then(
        (values) => this.returned(values),
        (error: unknown) => this.threw(error),
      )
      .catch((error: unknown) => RequestRun.logger.error(errorWithoutValues(error)));
  }

  private returned(values: unknown[]): void {
    const value = values.at(-1);
    if (!this.isHandlerRunning) {
      this.on('handler returned');
      if (value instanceof StreamableFile) {
        value.getStream().destroy(); // nobody reads it: it came too late
      }
      return;
    }
    failpoint('handler: returned');
    this.hasValue = value !== undefined;
    this.on('handler returned');
    this.decideWhenEnded();
    values.forEach((each) => this.outer.next(each));
    this.outer.complete();
  }

  private async threw(error: unknown): Promise<void> {
    if (!this.isHandlerRunning) {
      this.on('handler threw');
      return;
    }
    failpoint('handler: failed');
    if (isRetryable(error) && this.mayRunAgain && !this.exchange.hasBegun) {
      this.on('to run again');
      const { claim } = this;
      this.exchange.beginAgain({ isItsCode: () => claim.isRunning });
      await claim.rollBack();
      await this.runAgain();
      return;
    }
    const translated = this.problems.translate(error, this.claim);
    this.hasFailed = true;
    this.undone = this.undo();
    this.on('handler threw');
    this.decideWhenEnded();
    await this.undone;
    this.outer.error(translated);
  }

  /** The handler met a concurrent transaction: it starts anew, from a claim of its own. */
  private async runAgain(): Promise<void> {
    await delay(rerunPauseMs(this.attempt));
    try {
      await this.meet(await this.around.claims.claim(this.request));
    } catch (error) {
      this.refuse(failureOfRecord(error));
    }
  }

  private async replay(found: ReplayableResponse): Promise<void> {
    const response = await openedResponse(found, this.request, this.around);
    const replay = await this.exchange.acceptable(response);
    if (this.state !== 'claiming' && this.state !== 'pausing') {
      await replay.rest?.return?.();
      return; // answered meanwhile, as in `meet`
    }
    const isFirst = this.state === 'claiming';
    this.noteReplay(response);
    this.on('found recorded');
    failpoint('replay: sending');
    if (isFirst) {
      this.exchange.replay(replay, replayMarks(this.around.options, response));
    } else {
      this.exchange.replaceByReplay(replay, replayMarks(this.around.options, response));
    }
    failpoint('replay: sent');
    // The outer interceptors still get a value, so that they complete as usual; what comes of it is not sent.
    this.outer.next(valueLikeThatOf(response));
    this.outer.complete();
  }

  /** Hands an answer of the protocol, or what its own resolvers have thrown, to the exception filters. */
  private refuse(error: unknown): void {
    if (this.outer.closed || isEnd(this.state)) {
      return;
    }
    if (error instanceof IdempotencyException) {
      this.problems.announce(error);
    }
    this.hasFailed = true;
    this.on('refused');
    this.outer.error(error);
  }

  private timeOut(): void {
    const { timeoutMs, mode } = this.around.options;
    const exception = new IdempotencyTimeoutException(timeoutMs, mode, { cause: this.claim.stall });
    this.claim.abort(exception);
    switch (this.state) {
      case 'running':
      case 'answered':
      case 'pausing':
        this.hasFailed = true;
        this.problems.announce(exception);
        this.on('time limit');
        this.decideWhenEnded();
        this.outer.error(exception);
        break;
      case 'returned':
      case 'failed': {
        const presented = this.problems.present(exception);
        this.on('time limit');
        try {
          this.exchange.replaceByProblem(presented); // the response never ended
        } catch (error) {
          RequestRun.logger.error(errorWithoutValues(error)); // out of a timer it would end the process
        }
        break;
      }
      default:
        this.on('time limit'); // how the record ends tells what became of it
    }
  }

  /** Undoes the handler's writes; where its error may be stored, the key stays claimed until the response is known. */
  private undo(): Promise<void> {
    return this.around.options.storeErrors === undefined ? this.claim.rollBack() : this.claim.undoWrites();
  }

  private decideWhenEnded(): void {
    if (this.held !== undefined && this.state === 'deciding') {
      this.decide(this.held).catch((error: unknown) => RequestRun.logger.error(errorWithoutValues(error)));
    }
  }

  private async decide(response: HeldResponse): Promise<void> {
    await this.undone;
    try {
      failpoint('response: held');
      switch (verdictOn(this.handlerEnd, response.writer, response.status, this.around.options.storeErrors)) {
        case 'record the error':
          this.storesError = true;
          await this.claim.undoWrites();
          await this.record(response);
          break;
        case 'record':
          await this.record(response);
          break;
        case 'roll back':
          this.on('to roll back');
          await this.claim.rollBack();
          this.exchange.assertSendable();
          this.on('rolled back');
          this.exchange.letGo();
          break;
        case 'roll back and replace':
          this.on('to roll back');
          await this.claim.rollBack();
          this.replaceByProblem(this.problems.last ?? failedAfterItsAnswer());
          break;
      }
    } catch (error) {
      await this.claim.rollBack();
      await this.answerFailure(error, response);
    }
  }

  private get handlerEnd(): HandlerEnd {
    return !this.hasFailed ? 'returned' : this.claim.isAborted ? 'given up' : 'failed';
  }

  private async record({ status, body, bodyBytes }: HeldResponse): Promise<void> {
    const { claims, options } = this.around;
    this.on('to record');
    this.exchange.assertSendable();
    const headers = this.exchange.changedHeaders(options.replayHeaders);
    const sealed = await sealedResponse({ status, headers, body, bodyBytes }, this.claim, this.around);
    const result = await this.claim.record(sealed);
    if (result.kind === 'recorded') {
      await this.answerRecorded(result);
      return;
    }
    this.on('commit unknown');
    const outcome =
      result.kind === 'unanswered'
        ? await claims.outcomeOfLostCommit(this.claim, this.request)
        : await claims.outcomeOfWinner(this.request);
    if (outcome.kind === 'recorded') {
      await this.answerRecorded(outcome);
    } else if (outcome.kind === 'completed') {
      const replay = await this.exchange.acceptable(await openedResponse(outcome.response, this.request, this.around));
      this.noteReplay(outcome.response);
      this.on('found recorded');
      this.exchange.replaceByReplay(replay, replayMarks(options, outcome.response)); // the key was lost to another request, whose outcome is the answer
    } else if (outcome.kind !== 'claimed') {
      this.replaceByProblem(exceptionOf(outcome));
    }
  }

  private async answerRecorded(recorded: Recorded): Promise<void> {
    this.on('committed');
    this.exchange.letGo(expiryMarks(this.around.options, recorded));
    failpoint('response: sent');
    await this.claim.runAfterCommit();
  }

  private async answerFailure(error: unknown, { body }: HeldResponse): Promise<void> {
    if (isEnd(this.state)) {
      throw error; // it has its answer, but for what Node refused of it
    }
    const exception = failureOfRecord(error);
    if (
      exception instanceof IdempotencyConflictException &&
      this.mayRunAgain &&
      body !== null &&
      this.exchange.canRunRouteAgain
    ) {
      await delay(rerunPauseMs(this.attempt));
      this.on('to run again');
      this.exchange.runRouteAgain();
      return;
    }
    this.replaceByProblem(exception);
  }

  private replaceByProblem(exception: IdempotencyException): void {
    const presented = this.problems.present(exception);
    this.on('not recorded');
    this.exchange.replaceByProblem(presented);
  }

  private get mayRunAgain(): boolean {
    const { mode, retries } = this.around.options;
    return mode === 'transaction' && this.attempt <= retries; // in lease mode each step is run again by itself
  }

  private on(event: Event): void {
    if (isEnd(this.state)) {
      return;
    }
    this.state = after(this.state, event);
    this.around.report?.follow(event, this.state, this.facts);
    if (isEnd(this.state)) {
      clearTimeout(this.timer);
      if (this.isCounted) {
        this.around.scopeLimits.leave(this.request.scope);
      }
      this.problems.log();
    }
  }

  /** For who listens. */
  private get facts(): RunFacts {
    const { held, replayed, storesError } = this;
    const { scope, key } = this.request ?? {};
    const claim = this.claim as Claim | undefined;
    return {
      scope,
      key,
      attempt: claim === undefined ? 0 : this.attempt,
      tookOver: claim?.tookOver === true,
      storesError,
      response: replayed ?? (held && { status: held.status, bodyBytes: held.bodyBytes, bodyKept: held.body !== null }),
      problem: this.problems.last,
    };
  }

  private noteReplay({ status, body, traceContext }: ReplayableResponse): void {
    this.replayed = {
      status,
      bodyBytes: body.length,
      ...(traceContext === undefined ? {} : { originalTrace: traceContext }),
    };
  }
}
