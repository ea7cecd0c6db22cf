import { StreamableFile } from '@nestjs/common';
import { ExceptionsHandler } from '@nestjs/core/exceptions/exceptions-handler.js';
import { HttpExchange } from './http-exchange.js';

const WATCHED = Symbol.for('nestjs-idempotency: exceptions are watched');

/**
 * Has every exchange learn of the exception that is answered by it, whoever threw it and whoever answers. NestJS offers
 * no other places that all of them pass: an interceptor sees none of those further out, and of filters only the first
 * that matches is asked. Once a process; requests without an exchange, and those of other protocols, are left alone.
 */
export function watchExceptions(): void {
  const handler = ExceptionsHandler.prototype as ExceptionsHandler & { [WATCHED]?: true };
  if (handler[WATCHED] === undefined) {
    Object.assign(handler, { [WATCHED]: true });
    watchFilters(handler);
    watchFiles(StreamableFile.prototype);
  }
}

/** What anything has thrown on the way out of a handler, and what `next(error)` was given. */
function watchFilters(handler: ExceptionsHandler): void {
  const ordinary = handler.next;
  Object.assign(handler, {
    next(this: ExceptionsHandler, ...given: Parameters<ExceptionsHandler['next']>) {
      const [exception, context] = given;
      tell(context.getArgByIndex(1), exception);
      return ordinary.apply(this, given);
    },
  });
}

/** A file that cannot be read answers by itself, and no filter gets to see why: 400 unless it was given a handler. */
function watchFiles(file: StreamableFile): void {
  const ordinary = Object.getOwnPropertyDescriptor(file, 'errorHandler')?.get as
    (() => StreamableFile['errorHandler']) | undefined;
  if (ordinary !== undefined) {
    Object.defineProperty(file, 'errorHandler', {
      get(this: StreamableFile): StreamableFile['errorHandler'] {
        const answer = ordinary.call(this);
        return (error, response) => {
          tell(response, error);
          answer(error, response);
        };
      },
      configurable: true,
    });
  }
}

function tell(response: unknown, exception: unknown): void {
  if (typeof response === 'object' && response !== null) {
    HttpExchange.find(response)?.exceptionCaught(exception);
  }
}
