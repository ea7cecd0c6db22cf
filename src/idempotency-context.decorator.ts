import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import { HttpExchange } from './http/response/http-exchange.js';
import type { IdempotencyContext as Context } from './protocol/context.js';

/**
 * What a handler is given of its request.
 *
 * @typeParam Key `IdempotencyContext<string | undefined>` on a route with `required: false`
 */
export interface IdempotencyContext<Key extends string | undefined = string> extends Context<Key> {}

/** Hands a handler the {@link IdempotencyContext} of its request. */
export const IdempotencyContext = createParamDecorator(
  (_: unknown, context: ExecutionContext) =>
    HttpExchange.find(context.switchToHttp().getResponse<object>())?.handlersContext,
);
