import { HttpException, Logger, StreamableFile } from '@nestjs/common';
import { lastValueFrom, Observable, type Subscriber } from 'rxjs';
import type { Claim } from './claim.js';
import type { ClaimService, IdempotentRequest, Outcome } from './claim.service.js';
import { deferred } from './deferred.js';
import { failpoint } from './failpoint.js';
import { HeldAnswer } from './http/held-answer.js';
import type { HttpExchange } from './http/http-exchange.js';
import type { HeldResponse } from './http/response-recorder.js';
import type { IdempotencyContext } from './idempotency-context.decorator.js';
import {
  IdempotencyConflictException,
  IdempotencyException,
  IdempotencyStoreUnavailableException,
  IdempotencyTimeoutException,
  IdempotencyTransactionFailedException,
} from './idempotency.exceptions.js';
import type { RouteOptions } from './idempotency.options.js';
import { exceptionOf, valueLikeThatOf } from './outcome-answers.js';
import { DurableStepError } from './lease/durable-step.error.js';
import { downstreamKey } from './lease/downstream-key.js';
import { isRetryable, postgresErrorOf } from './persistence/sqlstate.js';
import type { StoredKeys } from './stored-keys.js';
import { delay, rerunPauseMs } from './timing.js';

interface Surroundings {
  claims: ClaimService;
  keys: StoredKeys;
  request: IdempotentRequest;
  options: RouteOptions;
  /** Gives an exception the module's problem types, and the operator its cause. */
  dress: <E extends IdempotencyException>(exception: E) => E;
}

type Verdict = 'record' | 'record the error' | 'roll back';

/**
 * One claimed request: runs the handler in the claim's transaction, holds its response, and lets it go once its
 * outcome is recorded. The response's end and the handler's completion are waited for both; with `@Res()` the bytes
 * may end first.
 */
export class IdempotentExecution {
  private static readonly logger = new Logger('Idempotency');

  private attempt: number;
  private state: 'running' | 'returned' | 'failed' = 'running';
  private hasValue = false;
  private concluding = false;
  private statusAtReturn = 0;
  private failure: IdempotencyException | undefined;
  private timer: NodeJS.Timeout | undefined;
  private handlersContext: IdempotencyContext | undefined;
  private readonly handlerEnd = deferred();
  private readonly answer: HeldAnswer;

  constructor(
    private claim: Claim,
    exchange: HttpExchange,
    private readonly around: Surroundings,
  ) {
    const { options } = around;
    this.attempt = claim.attempt ?? exchange.attempt;
    this.answer = new HeldAnswer(exchange, {
      maxBodyBytes: options.maxBodyBytes,
      // With a value returned it is the framework that writes, be it from the context of a stream the handler opened.
      isHandlersCode: () => this.claim.isRunning && !this.hasValue,
      isHandlerRunning: () => this.state === 'running',
    });
  }

  /** @param handle starts the handler; what it returns reaches the outer interceptors as if nothing were in between */
  run(handle: () => Observable<unknown>): Observable<unknown> {
    return new Observable((subscriber) => {
      this.timer = setTimeout(() => this.timeOut(subscriber), this.around.options.timeoutMs);
      this.conclude().catch((error: unknown) => IdempotentExecution.logger.error(error));
      this.start(handle, subscriber);
      return () => this.unsubscribed();
    });
  }

  /** What the handler may know and do. */
  get context(): IdempotencyContext {
    return (this.handlersContext ??= this.createContext());
  }

  private createContext(): IdempotencyContext {
    const { key, scope } = this.around.request;
    // Read when they are asked for: another run of the handler has another claim.
    const claim = (): Claim => this.claim;
    const attempt = (): number => this.attempt;
    return {
      key,
      scope,
      get attempt() {
        return attempt();
      },
      get manager() {
        return claim().createManager();
      },
      get signal() {
        return claim().signal;
      },
      afterCommit: (callback) => claim().afterCommit(callback),
      downstreamKey: (step) => downstreamKey(scope, key, step),
      find: (other) => this.around.keys.find({ scope, key: other }),
      forget: (other) => this.around.keys.forget({ scope, key: other }),
      step: (name, run) => claim().tools?.step(name, run) ?? refuseStep(name),
      transaction: (name, run) => claim().tools?.transaction(name, run) ?? refuseStep(name),
    };
  }

  private start(handle: () => Observable<unknown>, subscriber: Subscriber<unknown>): void {
    failpoint('handler: starting');
    this.claim
      .run(() => lastValueFrom(handle()))
      .then(
        (value) => this.returned(value, subscriber),
        (error: unknown) => this.threw(error, handle, subscriber),
      );
  }

  private returned(value: unknown, subscriber: Subscriber<unknown>): void {
    if (this.state !== 'running') {
      if (value instanceof StreamableFile) {
        value.getStream().destroy(); // nobody reads it: it came too late
      }
      return;
    }
    this.state = 'returned';
    this.hasValue = value !== undefined;
    failpoint('handler: returned');
    this.statusAtReturn = this.answer.status;
    this.handlerEnd.resolve();
    subscriber.next(value);
    subscriber.complete();
  }

  private async threw(
    error: unknown,
    handle: () => Observable<unknown>,
    subscriber: Subscriber<unknown>,
  ): Promise<void> {
    if (this.state !== 'running') {
      return;
    }
    failpoint('handler: failed');
    if (isRetryable(error) && this.mayRunAgain && !this.answer.begun) {
      await this.claim.rollBack();
      await this.runAgain(handle, subscriber);
      return;
    }
    this.state = 'failed';
    const translated = this.translate(error);
    this.yieldToNextRun();
    await this.undo();
    this.handlerEnd.resolve();
    subscriber.error(translated);
  }

  /** The handler met a concurrent transaction: it starts anew, from a claim of its own. */
  private async runAgain(handle: () => Observable<unknown>, subscriber: Subscriber<unknown>): Promise<void> {
    await delay(rerunPauseMs(this.attempt));
    let outcome: Outcome;
    try {
      outcome = await this.around.claims.claim(this.around.request);
    } catch (error) {
      this.fail(this.exceptionFrom(error), subscriber);
      return;
    }
    switch (outcome.kind) {
      case 'claimed':
        if (this.state !== 'running') {
          await outcome.claim.rollBack(); // the time limit has come meanwhile
          return;
        }
        this.claim = outcome.claim;
        this.attempt += 1;
        this.answer.rewind();
        this.start(handle, subscriber);
        break;
      case 'completed':
        this.state = 'failed';
        clearTimeout(this.timer);
        this.answer.replaceByReplay(outcome.response);
        subscriber.next(valueLikeThatOf(outcome.response));
        subscriber.complete();
        break;
      default:
        this.fail(exceptionOf(outcome), subscriber);
    }
  }

  /** Hands an answer of the protocol to the exception filters. */
  private fail(exception: IdempotencyException, subscriber: Subscriber<unknown>): void {
    if (this.state === 'running') {
      this.state = 'failed';
      this.failure = exception;
      this.answer.announce(this.around.dress(exception));
      this.handlerEnd.resolve();
      this.yieldToNextRun();
      subscriber.error(exception);
    }
  }

  /** An outer interceptor may run the route again: who can claim the key then shows that this claim is over. */
  private yieldToNextRun(): void {
    this.answer.yieldToNextRun(() => {
      clearTimeout(this.timer);
      void this.claim.rollBack();
    });
  }

  /** An outer interceptor has turned away before the handler was done: a time limit of its own, for instance. */
  private unsubscribed(): void {
    if (this.state === 'running') {
      this.state = 'failed';
      this.yieldToNextRun();
      if (this.around.options.storeErrors === undefined) {
        this.claim.abort(new Error('an outer interceptor gave the handler up'));
        this.handlerEnd.resolve();
      } else {
        void this.claim.undoWrites().then(() => this.handlerEnd.resolve());
      }
    }
  }

  private timeOut(subscriber: Subscriber<unknown>): void {
    const { timeoutMs, mode } = this.around.options;
    const exception = this.around.dress(new IdempotencyTimeoutException(timeoutMs, mode));
    this.claim.abort(exception);
    if (this.state === 'running') {
      this.fail(exception, subscriber);
    } else if (!this.concluding) {
      // The response never ended; otherwise its record tells what became of it.
      try {
        this.answer.replaceByProblem(exception);
      } catch (error) {
        IdempotentExecution.logger.error(error); // out of a timer it would end the process
      }
    }
  }

  /** Undoes the handler's writes; where its error may be stored, the key stays claimed until the response is known. */
  private undo(): Promise<void> {
    return this.around.options.storeErrors === undefined ? this.claim.rollBack() : this.claim.undoWrites();
  }

  private async conclude(): Promise<void> {
    const response = await this.answer.settled;
    await this.handlerEnd.promise;
    this.concluding = true;
    failpoint('response: held');
    try {
      switch (this.verdictOn(response)) {
        case 'record the error':
          await this.claim.undoWrites();
          await this.record(response);
          break;
        case 'record':
          await this.record(response);
          break;
        case 'roll back':
          await this.claim.rollBack();
          this.answerUnrecorded(response);
          break;
      }
    } catch (error) {
      await this.claim.rollBack();
      await this.answerFailure(error, response);
    } finally {
      clearTimeout(this.timer);
    }
  }

  /**
   * A status of 400 and more that neither the handler wrote nor its response had when it returned comes from an error
   * further out: an interceptor's, or one of writing the response.
   */
  private verdictOn({ status, byHandler }: HeldResponse): Verdict {
    const failedAfterItsAnswer = this.state === 'failed' && byHandler; // that answer is not the error's
    const givenUp = this.state === 'failed' && this.claim.isAborted;
    if (status >= 500 || failedAfterItsAnswer || givenUp || this.answer.isProblem(status)) {
      return 'roll back';
    }
    const failedFurtherOut = status >= 400 && !byHandler && status !== this.statusAtReturn;
    if (this.state === 'returned' && !failedFurtherOut) {
      return 'record';
    }
    return this.around.options.storeErrors?.(status) === true ? 'record the error' : 'roll back';
  }

  private async record({ status, body, bodyBytes }: HeldResponse): Promise<void> {
    const { claims, options, request } = this.around;
    const headers = this.answer.changedHeaders(options.replayHeaders);
    let outcome: 'recorded' | Outcome;
    switch (await this.claim.record({ status, headers, body, bodyBytes })) {
      case 'recorded':
        outcome = 'recorded';
        break;
      case 'unanswered':
        outcome = await claims.outcomeOf(this.claim, request);
        break;
      case 'lost':
        outcome = await claims.outcomeOfOther(request);
        break;
    }
    if (outcome === 'recorded') {
      this.answer.letGo();
      failpoint('response: sent');
      await this.claim.runAfterCommit();
    } else if (outcome.kind === 'completed') {
      this.answer.replaceByReplay(outcome.response); // the key was lost to another request, whose outcome is the answer
    } else if (outcome.kind !== 'claimed') {
      this.answer.replaceByProblem(this.around.dress(exceptionOf(outcome)));
    }
  }

  /** Nothing is recorded: the response that reports the failure goes out as it is. */
  private answerUnrecorded({ byHandler }: HeldResponse): void {
    if (this.state === 'failed' && byHandler) {
      // The handler had answered already when it failed: that answer must not go out.
      const failure = 'The operation failed after it had answered, and was rolled back.';
      this.answer.replaceByProblem(
        this.around.dress(this.failure ?? new IdempotencyTransactionFailedException(failure)),
      );
    } else {
      this.answer.letGo();
    }
  }

  private async answerFailure(error: unknown, { body }: HeldResponse): Promise<void> {
    const exception = this.exceptionFrom(error);
    if (
      exception instanceof IdempotencyConflictException &&
      this.mayRunAgain &&
      body !== null &&
      this.answer.canStartOver
    ) {
      await delay(rerunPauseMs(this.attempt));
      this.answer.startOver();
      return;
    }
    this.answer.replaceByProblem(this.around.dress(exception));
  }

  private get mayRunAgain(): boolean {
    const { mode, retries } = this.around.options;
    return mode === 'transaction' && this.attempt <= retries; // in lease mode each step is run again by itself
  }

  /** The handler's error as the exception filters get it. */
  private translate(error: unknown): unknown {
    if (error instanceof IdempotencyException) {
      this.answer.announce(this.around.dress(error)); // a step's: the lease is lost, or the store out of reach
      return error;
    }
    if (error instanceof HttpException) {
      return error;
    }
    const exception = isRetryable(error)
      ? new IdempotencyConflictException({ cause: error })
      : this.claim.connectionLost || isFatal(error)
        ? new IdempotencyStoreUnavailableException('The connection to the database was lost.', { cause: error })
        : undefined;
    if (exception !== undefined) {
      this.failure = exception;
      this.answer.announce(this.around.dress(exception));
    }
    return exception ?? error;
  }

  private exceptionFrom(error: unknown): IdempotencyException {
    return error instanceof IdempotencyException
      ? error
      : new IdempotencyTransactionFailedException('The outcome of the operation could not be recorded.', {
          cause: error,
        });
  }
}

function refuseStep(name: string): Promise<never> {
  const error = `Step "${name}" cannot be remembered in transaction mode, where the handler runs as a whole or not at all. Set \`mode: 'lease'\` on the route.`;
  return Promise.reject(new DurableStepError(error));
}

/** PostgreSQL's last word on a session that it ends; its socket closes a moment later. */
function isFatal(error: unknown): boolean {
  return postgresErrorOf(error)?.severity === 'FATAL';
}
