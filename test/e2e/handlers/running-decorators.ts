import {
  type CallHandler,
  type ExecutionContext,
  Get,
  Injectable,
  type NestInterceptor,
  Post,
  SetMetadata,
  UseInterceptors,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { mergeMap, type Observable } from 'rxjs';

/** In essence what @ts-rest/nest and @orpc/nest do: a handler returns functions, and an interceptor runs them. */
export type Implementation = (request: { body: { label: string; fail?: boolean } }) => Promise<unknown>;

const ROUTE_KEY = Symbol('route key');

async function run(context: ExecutionContext, returned: unknown): Promise<unknown> {
  const key = Reflect.getMetadata(ROUTE_KEY, context.getHandler()) as string | undefined;
  const implementation =
    key === undefined ? (returned as Implementation) : (returned as Record<string, Implementation>)[key]!;
  return implementation(context.switchToHttp().getRequest());
}

/** Known by its name. */
@Injectable()
export class TsRestHandlerInterceptor implements NestInterceptor {
  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle().pipe(mergeMap((returned) => run(context, returned)));
  }
}

/** One that the library has never heard of. */
@Injectable()
export class UnknownRunner extends TsRestHandlerInterceptor {}

export const Run = (path: string): MethodDecorator => {
  return (target, name, descriptor) => {
    Post(path)(target, name, descriptor);
    UseInterceptors(TsRestHandlerInterceptor)(target, name, descriptor);
  };
};

export const RunUnknown = (path: string): MethodDecorator => {
  return (target, name, descriptor) => {
    Post(path)(target, name, descriptor);
    UseInterceptors(UnknownRunner)(target, name, descriptor);
  };
};

/** A handler for each route of a contract, made of one method: with a copy of its metadata, as @ts-rest/nest makes them. */
export const RunEach = (contract: Record<string, MethodDecorator>, copiesMetadata: boolean): MethodDecorator => {
  return (target, name, descriptor) => {
    const method = descriptor.value as unknown as (...args: unknown[]) => unknown;
    for (const [key, route] of Object.entries(contract)) {
      const made = `${String(name)}_${key}`;
      const prototype = target as Record<string, unknown>;
      prototype[made] = async function (this: unknown, ...args: unknown[]) {
        return method.apply(this, args);
      };
      const own = Object.getOwnPropertyDescriptor(target, made)!;
      route(target, made, own);
      if (copiesMetadata) {
        const reflector = new Reflector();
        for (const metadata of Reflect.getMetadataKeys(method) as string[]) {
          SetMetadata(metadata, reflector.get(metadata, method))(target, made, own);
        }
      }
      SetMetadata(ROUTE_KEY, key)(target, made, own);
      UseInterceptors(TsRestHandlerInterceptor)(target, made, own);
    }
  };
};

export const contractAt = (path: string): Record<string, MethodDecorator> => ({
  create: Post(path),
  list: Get(path),
});
