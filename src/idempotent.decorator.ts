import { UseInterceptors } from '@nestjs/common';
import { ON_CLASS } from './idempotency-class.interceptor.js';
import { IdempotencyInterceptor } from './idempotency.interceptor.js';
import type { IdempotentOptions } from './protocol/options.js';
import { IdempotentMetadata } from './idempotent.metadata.js';
import { attachedInterceptors } from './idempotent-handlers.js';

/**
 * Makes a handler safe to retry: one idempotency key means one execution, and every retry gets the same bytes.
 *
 * On a class it applies to each handler whose method is not safe (POST, PUT, PATCH, DELETE and so on), wherever NestJS
 * applies what decorates a class: to inherited ones, those of subclasses, and those that another decorator of the class
 * makes. Options on a method win over those on its class, and those over the module's.
 *
 * The interceptor comes with it and runs innermost, provided that decorators which attach others, such as
 * `@UseInterceptors(FileInterceptor('file'))`, stand below. One whose interceptor runs what the handler returned, such as
 * `@TsRestHandler()`, is part of the handler wherever it stands.
 *
 * @throws IdempotencyOptionError at boot, when an option is wrong, the handler is for GET, HEAD, OPTIONS, `@All()`, `@Sse()`
 * or messages, or what is decorated is no handler at all
 */
export function Idempotent(options: IdempotentOptions = {}): MethodDecorator & ClassDecorator {
  return (target: object, propertyKey?: string | symbol, descriptor?: PropertyDescriptor) => {
    if (propertyKey !== undefined && descriptor !== undefined) {
      IdempotentMetadata(options)(target, propertyKey, descriptor);
      if (!attachedInterceptors(descriptor.value as object).includes(IdempotencyInterceptor)) {
        UseInterceptors(IdempotencyInterceptor)(target, propertyKey, descriptor);
      }
    } else {
      const controller = target as new () => object;
      IdempotentMetadata(options)(controller);
      if (!attachedInterceptors(controller).includes(ON_CLASS)) {
        UseInterceptors(ON_CLASS, IdempotencyInterceptor)(controller);
      }
    }
  };
}
