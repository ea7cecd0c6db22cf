import { HttpException, Logger, StreamableFile } from '@nestjs/common';
import { lastValueFrom, Observable, type Subscriber } from 'rxjs';
import type { Claim } from './claim.js';
import type { ClaimService, IdempotentRequest, Outcome } from './claim.service.js';
import { deferred } from './deferred.js';
import { failpoint } from './failpoint.js';
import type { HttpExchange } from './http/http-exchange.js';
import { changedHeaders, type HeaderBaseline } from './http/recorded-response.js';
import { type HeldResponse, ResponseRecorder } from './http/response-recorder.js';
import {
  IdempotencyConflictException,
  IdempotencyException,
  IdempotencyStoreUnavailableException,
  IdempotencyTimeoutException,
  IdempotencyTransactionFailedException,
} from './idempotency.exceptions.js';
import type { RouteOptions } from './idempotency.options.js';
import { isRetryable } from './persistence/sqlstate.js';

interface Surroundings {
  exchange: HttpExchange;
  claims: ClaimService;
  request: IdempotentRequest;
  options: RouteOptions;
  /** Gives an exception the module's problem types. */
  dress: <E extends IdempotencyException>(exception: E) => E;
  /** What answers a duplicate that finds no recorded response. */
  exceptionFor: (outcome: Exclude<Outcome, { kind: 'claimed' | 'completed' }>) => IdempotencyException;
  afterCommit: readonly (() => unknown)[];
}

type Verdict = 'record' | 'record the error' | 'roll back';

/**
 * One claimed request: runs the handler in the claim's transaction, holds its response, and lets it go once its
 * outcome is recorded. The response's end and the handler's completion are waited for both; with `@Res()` the bytes
 * may end first.
 */
export class IdempotentExecution {
  private static readonly logger = new Logger('Idempotency');

  private state: 'running' | 'returned' | 'failed' = 'running';
  private concluding = false;
  private answered = false;
  private statusAtReturn = 0;
  private failure: IdempotencyException | undefined;
  private readonly handlerEnd = deferred();
  private readonly baseline: HeaderBaseline;
  private readonly recorder: ResponseRecorder;

  constructor(
    private readonly claim: Claim,
    private readonly around: Surroundings,
  ) {
    const { exchange, options } = around;
    this.baseline = exchange.baseline();
    this.recorder = new ResponseRecorder(exchange.response, {
      maxBodyBytes: options.maxBodyBytes,
      isHandlersCode: () => claim.isRunning,
      isHandlerRunning: () => this.state === 'running',
    });
  }

  /** @param handle starts the handler; what it returns reaches the outer interceptors as if nothing were in between */
  run(handle: () => Observable<unknown>): Observable<unknown> {
    return new Observable((subscriber) => {
      const { timeoutMs } = this.around.options;
      const timer = setTimeout(() => this.timeOut(subscriber), timeoutMs);
      void this.conclude().finally(() => clearTimeout(timer));
      failpoint('handler: starting');
      this.claim
        .run(() => lastValueFrom(handle()))
        .then(
          (value) => this.returned(value, subscriber),
          (error: unknown) => this.threw(error, subscriber),
        );
      return () => this.unsubscribed();
    });
  }

  private returned(value: unknown, subscriber: Subscriber<unknown>): void {
    if (this.state !== 'running') {
      if (value instanceof StreamableFile) {
        value.getStream().destroy(); // nobody reads it: it came too late
      }
      return;
    }
    this.state = 'returned';
    failpoint('handler: returned');
    this.statusAtReturn = this.around.exchange.response.statusCode;
    this.handlerEnd.resolve();
    subscriber.next(value);
    subscriber.complete();
  }

  private async threw(error: unknown, subscriber: Subscriber<unknown>): Promise<void> {
    if (this.state !== 'running') {
      return;
    }
    this.state = 'failed';
    failpoint('handler: failed');
    const translated = this.translate(error);
    await this.undo();
    this.handlerEnd.resolve();
    subscriber.error(translated);
  }

  /** An outer interceptor has turned away before the handler was done: a time limit of its own, for instance. */
  private unsubscribed(): void {
    if (this.state === 'running') {
      this.state = 'failed';
      if (this.around.options.storeErrors === undefined) {
        this.claim.abort(new Error('an outer interceptor gave the handler up'));
        this.handlerEnd.resolve();
      } else {
        void this.claim.undoWrites().then(() => this.handlerEnd.resolve());
      }
    }
  }

  private timeOut(subscriber: Subscriber<unknown>): void {
    const exception = this.around.dress(new IdempotencyTimeoutException(this.around.options.timeoutMs));
    this.claim.abort(exception);
    if (this.state === 'running') {
      this.state = 'failed';
      this.failure = exception;
      this.around.exchange.announceProblem(exception);
      this.handlerEnd.resolve();
      subscriber.error(exception);
    } else if (!this.concluding) {
      this.answer(exception); // the response never ended; otherwise its record tells what became of it
    }
  }

  /** Undoes the handler's writes; where its error may be stored, the key stays claimed until the response is known. */
  private undo(): Promise<void> {
    return this.around.options.storeErrors === undefined ? this.claim.rollBack() : this.claim.undoWrites();
  }

  private async conclude(): Promise<void> {
    const [response] = await Promise.all([this.recorder.settled, this.handlerEnd.promise]);
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
      this.answer(this.exceptionOf(error));
    }
  }

  /**
   * A status of 400 and more that neither the handler wrote nor its response had when it returned comes from an error
   * further out: an interceptor's, or one of writing the response.
   */
  private verdictOn({ status, byHandler }: HeldResponse): Verdict {
    if (status >= 500) {
      return 'roll back';
    }
    const failedFurtherOut = status >= 400 && !byHandler && status !== this.statusAtReturn;
    if (this.state === 'returned' && !failedFurtherOut) {
      return 'record';
    }
    return this.around.options.storeErrors?.(status) === true ? 'record the error' : 'roll back';
  }

  private async record(response: HeldResponse): Promise<void> {
    const { claims, exchange, options, request } = this.around;
    const { status, body, bodyBytes } = response;
    const headers = changedHeaders(exchange.response, this.baseline, options.replayHeaders);
    let result: 'recorded' | Outcome;
    switch (await this.claim.record({ status, headers, body, bodyBytes })) {
      case 'recorded':
        result = 'recorded';
        break;
      case 'unanswered':
        result = await claims.outcomeOf(this.claim, request);
        break;
      case 'lost':
        result = await claims.outcomeOfOther(request);
        break;
    }
    if (result === 'recorded') {
      await this.letGo();
    } else {
      this.answerWith(result);
    }
  }

  private async letGo(): Promise<void> {
    if (this.answered) {
      return;
    }
    this.answered = true;
    this.recorder.letGo();
    failpoint('response: sent');
    for (const callback of this.around.afterCommit) {
      try {
        await callback();
      } catch (error) {
        IdempotentExecution.logger.error(error);
      }
    }
  }

  private answerUnrecorded(response: HeldResponse): void {
    if (this.state === 'failed' && response.byHandler) {
      // The handler had answered already when it failed: that answer must not go out.
      this.answer(
        this.failure ??
          new IdempotencyTransactionFailedException('The operation failed after it had answered, and was rolled back.'),
      );
    } else if (!this.answered) {
      this.answered = true;
      this.recorder.letGo();
    }
  }

  /** The key was lost to another request, whose outcome is the answer. */
  private answerWith(outcome: Outcome): void {
    const { exchange, exceptionFor } = this.around;
    switch (outcome.kind) {
      case 'claimed':
        throw new Error('unreachable: a look-up claims nothing');
      case 'completed':
        this.answered = true;
        this.recorder.replace(() => exchange.replay(outcome.response, this.baseline));
        break;
      default:
        this.answer(exceptionFor(outcome));
    }
  }

  private answer(exception: IdempotencyException): void {
    if (this.answered) {
      return;
    }
    this.answered = true;
    if (exception.getStatus() === 500) {
      IdempotentExecution.logger.error(exception);
    }
    this.recorder.replace(() => this.around.exchange.sendProblem(this.around.dress(exception), this.baseline));
  }

  /** The handler's error as the exception filters get it. */
  private translate(error: unknown): unknown {
    if (error instanceof HttpException) {
      return error;
    }
    const exception = isRetryable(error)
      ? new IdempotencyConflictException({ cause: error })
      : this.claim.connectionLost
        ? new IdempotencyStoreUnavailableException('The connection to the database was lost.', { cause: error })
        : undefined;
    if (exception !== undefined) {
      this.around.exchange.announceProblem(this.around.dress(exception));
    }
    return exception ?? error;
  }

  private exceptionOf(error: unknown): IdempotencyException {
    return error instanceof IdempotencyException
      ? error
      : new IdempotencyTransactionFailedException('The outcome of the operation could not be recorded.', {
          cause: error,
        });
  }
}
