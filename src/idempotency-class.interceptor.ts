import { type CallHandler, type ExecutionContext, Injectable, type NestInterceptor, Optional } from '@nestjs/common';
import type { Observable } from 'rxjs';
import { IdempotencyInterceptor } from './idempotency.interceptor.js';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import { isSafe } from './safe-methods.js';

const innermost = new WeakMap<object, IdempotencyInterceptor>();

/**
 * What `@Idempotent()` attaches to a class. It only hands on to {@link INNERMOST}: what NestJS attaches to a class runs
 * outside of all that its methods have, and the handlers that it is for may not be there yet.
 */
@Injectable()
export class IdempotencyClassInterceptor implements NestInterceptor {
  private readonly interceptor: IdempotencyInterceptor;

  constructor(@Optional() runtime?: IdempotencyRuntime) {
    this.interceptor = new IdempotencyInterceptor(runtime);
  }

  get hasModule(): boolean {
    return this.interceptor.hasModule;
  }

  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    if (context.getType() === 'http' && !isSafe(context.getHandler())) {
      this.interceptor.assertModule(context);
      innermost.set(context.switchToHttp().getRequest<object>(), this.interceptor);
    }
    return next.handle();
  }
}

/**
 * What the handlers of such a class get behind all their own interceptors. It belongs to no application, since NestJS keeps
 * it at the method, and a method may be inherited by a class that is not idempotent: there nobody hands on to it.
 */
export const INNERMOST: NestInterceptor = {
  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const interceptor = innermost.get(context.switchToHttp().getRequest<object>());
    return interceptor === undefined ? next.handle() : interceptor.intercept(context, next);
  },
};
