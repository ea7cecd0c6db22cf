import { type ArgumentsHost, Catch, type ExceptionFilter } from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { IdempotencyException } from '../../../src/index.js';

/** Stripe's SDK knows an error by the member `error` of a body: without it any 4xx is a success to it. */
@Catch(IdempotencyException)
export class StripeErrorsFilter implements ExceptionFilter {
  constructor(private readonly host: HttpAdapterHost) {}

  catch(exception: IdempotencyException, host: ArgumentsHost): void {
    const { type: code, detail: message, status } = exception.getResponse();
    const body = { error: { type: 'idempotency_error', code, message } };
    this.host.httpAdapter.reply(host.switchToHttp().getResponse(), body, status);
  }
}
