import { RequestMethod, UseInterceptors } from '@nestjs/common';
import { INTERCEPTORS_METADATA, METHOD_METADATA, PATH_METADATA } from '@nestjs/common/constants.js';
import { IdempotencyInterceptor } from './idempotency.interceptor.js';
import type { IdempotentOptions } from './idempotency.options.js';
import { IdempotentMetadata } from './idempotent.metadata.js';

const UNSAFE_METHODS = [RequestMethod.POST, RequestMethod.PUT, RequestMethod.PATCH, RequestMethod.DELETE];

/**
 * Makes a handler safe to retry: one idempotency key means one execution, and every retry gets the same bytes.
 *
 * On a class it applies to each handler for POST, PUT, PATCH and DELETE, inherited ones included; options on a method
 * win over those on its class, and those over the module's. The interceptor comes with it and runs innermost, provided
 * that decorators which attach others, such as `@UseInterceptors(FileInterceptor('file'))`, stand below.
 *
 * @throws IdempotencyOptionError at boot, when an option is wrong or the handler is for GET, HEAD, OPTIONS or `@Sse()`
 */
export function Idempotent(options: IdempotentOptions = {}): MethodDecorator & ClassDecorator {
  return (target: object, propertyKey?: string | symbol, descriptor?: PropertyDescriptor) => {
    if (propertyKey !== undefined && descriptor !== undefined) {
      IdempotentMetadata(options)(target, propertyKey, descriptor);
      attachInterceptor(target, propertyKey, descriptor);
    } else {
      const controller = target as new () => object;
      IdempotentMetadata(options)(controller);
      attachToHandlers(controller.prototype as object);
    }
  };
}

/** Method by method rather than on the class: an interceptor of the class would run outside of those of its methods. */
function attachToHandlers(prototype: object): void {
  for (const name of handlerNames(prototype)) {
    const descriptor = Object.getOwnPropertyDescriptor(prototype, name) ?? ownCopyOfInherited(prototype, name);
    attachInterceptor(prototype, name, descriptor);
  }
}

function handlerNames(prototype: object): string[] {
  const names = new Set<string>();
  for (let level = prototype; level !== Object.prototype; level = Object.getPrototypeOf(level) as object) {
    Object.getOwnPropertyNames(level).forEach((name) => names.add(name));
  }
  return [...names].filter((name) => {
    const method: unknown = name === 'constructor' ? undefined : propertyOf(prototype, name)?.value;
    return (
      typeof method === 'function' &&
      Reflect.hasMetadata(PATH_METADATA, method) &&
      UNSAFE_METHODS.includes(Reflect.getMetadata(METHOD_METADATA, method) as RequestMethod)
    );
  });
}

function propertyOf(prototype: object, name: string): PropertyDescriptor | undefined {
  for (let level = prototype; level !== Object.prototype; level = Object.getPrototypeOf(level) as object) {
    const descriptor = Object.getOwnPropertyDescriptor(level, name);
    if (descriptor !== undefined) {
      return descriptor;
    }
  }
  return undefined;
}

/** An inherited handler may serve other controllers, too: this class gets one of its own, with all that decorates it. */
function ownCopyOfInherited(prototype: object, name: string): PropertyDescriptor {
  const inherited = propertyOf(prototype, name)!;
  const method = inherited.value as (...args: unknown[]) => unknown;
  const copy = {
    [name](this: unknown, ...args: unknown[]): unknown {
      return method.apply(this, args);
    },
  }[name]!;
  for (const key of Reflect.getMetadataKeys(method) as unknown[]) {
    Reflect.defineMetadata(key, Reflect.getMetadata(key, method), copy);
  }
  const descriptor = { ...inherited, value: copy };
  Object.defineProperty(prototype, name, descriptor);
  return descriptor;
}

function attachInterceptor(target: object, name: string | symbol, descriptor: PropertyDescriptor): void {
  const method = descriptor.value as object;
  const attached = (Reflect.getMetadata(INTERCEPTORS_METADATA, method) ?? []) as unknown[];
  if (!attached.includes(IdempotencyInterceptor)) {
    UseInterceptors(IdempotencyInterceptor)(target, name, descriptor);
  }
}
