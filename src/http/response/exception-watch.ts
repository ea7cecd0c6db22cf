import { ExceptionsHandler } from '@nestjs/core/exceptions/exceptions-handler.js';
import { HttpExchange } from './http-exchange.js';

const WATCHED = Symbol.for('nestjs-idempotency: exceptions are watched');

/**
 * Has every exchange learn of the exception that is answered by it, whoever threw it and whichever filter answers. NestJS
 * offers no other place that all of them pass: an interceptor sees none of those further out, and of filters only the
 * first that matches is asked. Once a process; requests without an exchange, and those of other protocols, are left alone.
 */
export function watchExceptions(): void {
  const handler = ExceptionsHandler.prototype as ExceptionsHandler & { [WATCHED]?: true };
  if (handler[WATCHED] !== undefined) {
    return;
  }
  const ordinary = handler.next;
  Object.assign(handler, {
    [WATCHED]: true,
    next(this: ExceptionsHandler, ...given: Parameters<ExceptionsHandler['next']>) {
      const [exception, context] = given;
      const response: unknown = context.getArgByIndex(1);
      if (typeof response === 'object' && response !== null) {
        HttpExchange.find(response)?.exceptionCaught(exception);
      }
      return ordinary.apply(this, given);
    },
  });
}
