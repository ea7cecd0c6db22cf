import type { CallHandler, ExecutionContext, NestInterceptor } from '@nestjs/common';
import type { Observable } from 'rxjs';
import { isSafe } from './safe-methods.js';

/** Calls in which the interceptor that comes next is the one of the class. */
const announced = new WeakSet<ExecutionContext>();
const innermost = new WeakMap<object, NestInterceptor>();

/**
 * What `@Idempotent()` attaches to a class in front of the interceptor, which there only hands on to {@link INNERMOST}: what
 * NestJS attaches to a class runs outside of all that its methods have, and the handlers that it is for may not be there yet.
 */
export const ON_CLASS: NestInterceptor = {
  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    announced.add(context);
    return next.handle();
  },
};

/** Whether this call of `interceptor` is the one on the class, and with it all that is done there. */
export function isCallOnClass(context: ExecutionContext, interceptor: ClassInterceptor): boolean {
  if (!announced.delete(context)) {
    return false;
  }
  if (context.getType() === 'http' && !isSafe(context.getHandler())) {
    interceptor.assertModule(context);
    innermost.set(context.switchToHttp().getRequest<object>(), interceptor);
  }
  return true;
}

interface ClassInterceptor extends NestInterceptor {
  assertModule(context: ExecutionContext): unknown;
}

/**
 * What the handlers of such a class get behind all their own interceptors. It belongs to no application, since NestJS keeps
 * it at the method, and a method may be inherited by a class that is not idempotent: there nobody hands on to it.
 */
export const INNERMOST: NestInterceptor = {
  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    const interceptor = innermost.get(context.switchToHttp().getRequest<object>());
    return interceptor === undefined ? next.handle() : (interceptor.intercept(context, next) as Observable<unknown>);
  },
};
