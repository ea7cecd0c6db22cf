import { HttpException, Logger } from '@nestjs/common';
import type { HttpExchange } from '../http/response/http-exchange.js';
import type { Claim } from '../modes/claim.js';
import { isRetryable, isSessionEnd } from '../postgres/sqlstate.js';
import {
  IdempotencyConflictException,
  IdempotencyException,
  IdempotencyStoreUnavailableException,
  IdempotencyTransactionFailedException,
} from '../protocol/exceptions.js';

/** The library's own problems that one run has answered, or handed to the exception filters. */
export class RunProblems {
  private static readonly logger = new Logger('Idempotency');

  private readonly problems: IdempotencyException[] = [];

  constructor(
    private readonly exchange: Pick<HttpExchange, 'announceProblem'>,
    private readonly baseUrl: string,
  ) {}

  get last(): IdempotencyException | undefined {
    return this.problems.at(-1);
  }

  /** What the exception filters will answer by is known for the library's own. */
  announce(exception: IdempotencyException): void {
    this.exchange.announceProblem(this.present(exception));
  }

  /** Gives the exception the module's problem types, and remembers it for the operator. */
  present(exception: IdempotencyException): IdempotencyException {
    if (!this.problems.includes(exception)) {
      this.problems.push(exception);
    }
    return exception.withBaseUrl(this.baseUrl);
  }

  /** The handler's error as the exception filters get it. */
  translate(error: unknown, claim: Pick<Claim, 'connectionLost'>): unknown {
    const exception = problemOf(error, claim);
    if (exception === undefined) {
      return error;
    }
    this.announce(exception);
    return exception;
  }

  /** The operator gets the causes, once: the client does not get to see them. */
  log(): void {
    for (const { cause, message } of this.problems.filter((problem) => problem.getStatus() >= 500)) {
      if (cause !== undefined) {
        RunProblems.logger.error(message, cause);
      }
    }
  }
}

function problemOf(error: unknown, claim: Pick<Claim, 'connectionLost'>): IdempotencyException | undefined {
  if (error instanceof IdempotencyException) {
    return error; // a step's: the lease is lost, or the store out of reach
  }
  if (error instanceof HttpException) {
    return undefined;
  }
  if (isRetryable(error)) {
    return new IdempotencyConflictException({ cause: error });
  }
  return claim.connectionLost || isSessionEnd(error)
    ? new IdempotencyStoreUnavailableException('The connection to the database was lost.', { cause: error })
    : undefined;
}

/** Why nothing could be recorded. */
export function failureOfRecord(error: unknown): IdempotencyException {
  return error instanceof IdempotencyException
    ? error
    : new IdempotencyTransactionFailedException('The outcome of the operation could not be recorded.', {
        cause: error,
      });
}

export function failedAfterItsAnswer(): IdempotencyException {
  return new IdempotencyTransactionFailedException('The operation failed after it had answered, and was rolled back.');
}

export function outgrown(maxHeldBytes: number): IdempotencyException {
  return new IdempotencyTransactionFailedException(
    `The response grew beyond ${maxHeldBytes} bytes while it had to be held back, so the operation was rolled back. ` +
      'Return a StreamableFile, or a stream that does not read from the transaction: what follows the first `maxBodyBytes` of it is not held. Or raise `maxHeldBytes`.',
  );
}
