import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { EntityManager } from 'typeorm';

/** What a handler may know of its idempotent request. */
export interface IdempotencyContext {
  readonly key: string;
  readonly scope: string;
  /** 1, and one more each time the handler is run again. */
  readonly attempt: number;
  /** Works in the request's transaction, as every repository and manager of the DataSource does by itself. */
  readonly manager: EntityManager;
  /**
   * Runs `callback` once the transaction has committed and the response was let go, never after a rollback. An error
   * in it is logged. It is lost when the process dies before: work that must not be lost belongs in the transaction.
   */
  afterCommit(callback: () => unknown): void;
}

const contexts = new WeakMap<object, IdempotencyContext>();

/** @internal */
export function provideContext(context: ExecutionContext, value: IdempotencyContext): void {
  contexts.set(context.switchToHttp().getRequest<object>(), value);
}

/**
 * Hands a handler the {@link IdempotencyContext} of its request; `undefined` where the route does not require a key
 * and the request has none.
 */
export const IdempotencyContext = createParamDecorator((_: unknown, context: ExecutionContext) =>
  contexts.get(context.switchToHttp().getRequest<object>()),
);
