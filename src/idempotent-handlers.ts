import type { Type } from '@nestjs/common';
import { INTERCEPTORS_METADATA, PATH_METADATA } from '@nestjs/common/constants.js';
import type { MetadataScanner } from '@nestjs/core';
import { INNERMOST, ON_CLASS } from './idempotency-class.interceptor.js';
import { IdempotencyInterceptor } from './idempotency.interceptor.js';
import { IdempotentMetadata } from './idempotent.metadata.js';
import { isSafe } from './safe-methods.js';

export type Handler = (...args: unknown[]) => unknown;

/**
 * Interceptors that run a function, or a procedure, which the handler has returned: @ts-rest/nest and @orpc/nest. By name,
 * since neither is a dependency.
 */
const RUN_WHAT_WAS_RETURNED = new Set(['TsRestHandlerInterceptor', 'ImplementInterceptor']);

export function attachedInterceptors(target: object): unknown[] {
  return (Reflect.getMetadata(INTERCEPTORS_METADATA, target) ?? []) as unknown[];
}

/** One that NestJS routes requests to. */
export function isRoute(handler: Handler): boolean {
  return Reflect.hasMetadata(PATH_METADATA, handler);
}

export function hasOwnOptions(handler: Handler): boolean {
  return Reflect.hasOwnMetadata(IdempotentMetadata.KEY, handler);
}

/** Whether the class, or one that it inherits from, is decorated. */
export function isIdempotentClass(controller: Type): boolean {
  return attachedInterceptors(controller).includes(ON_CLASS);
}

export function isIdempotent(controller: Type, handler: Handler): boolean {
  return isRoute(handler) && (hasOwnOptions(handler) || (isIdempotentClass(controller) && !isSafe(handler)));
}

export function methodsOf(scanner: MetadataScanner, type: Type): [name: string, method: Handler][] {
  const prototype = type.prototype as Record<string, Handler>;
  return scanner.getAllMethodNames(prototype).map((name) => [name, prototype[name]!]);
}

/**
 * The handlers that another decorator has made of a decorated method that is none itself: `create_order` and
 * `create_refund` of `create`, as @ts-rest/nest and @orpc/nest name those of a contract with several routes.
 */
export function madeOf(name: string, methods: readonly [name: string, method: Handler][]): Handler[] {
  return methods.filter(([other, method]) => other.startsWith(`${name}_`) && isRoute(method)).map(([, made]) => made);
}

/**
 * Attaches the interceptor where no decorator could: to handlers that came after the decorator of their class, and those
 * made of a decorated method. NestJS must not have read them yet. What it attaches is for all applications of the process.
 */
export function attachToHandlers(scanner: MetadataScanner, controller: Type): void {
  const methods = methodsOf(scanner, controller);
  for (const [name, method] of methods) {
    if (hasOwnOptions(method) && !isRoute(method)) {
      madeOf(name, methods).forEach((made) => decorateLike(method, made));
    }
  }
  for (const [, handler] of methods.filter(([, method]) => isIdempotent(controller, method))) {
    arrange(handler, hasOwnOptions(handler) ? undefined : INNERMOST);
  }
}

function decorateLike(method: Handler, made: Handler): void {
  const { KEY } = IdempotentMetadata;
  const attached = attachedInterceptors(made).filter((interceptor) => interceptor !== IdempotencyInterceptor);
  if (isSafe(made)) {
    Reflect.deleteMetadata(KEY, made); // it was copied
    Reflect.defineMetadata(INTERCEPTORS_METADATA, attached, made);
  } else {
    Reflect.defineMetadata(KEY, Reflect.getMetadata(KEY, method), made);
    Reflect.defineMetadata(INTERCEPTORS_METADATA, [...attached, IdempotencyInterceptor], made);
  }
}

/** Puts the interceptor outside of those that are part of the handler. */
function arrange(handler: Handler, missing: unknown): void {
  const attached = attachedInterceptors(handler);
  const own = attached.find(isOwn) ?? missing;
  const others = attached.filter((interceptor) => !isOwn(interceptor));
  const partOfIt = others.findIndex((interceptor) => RUN_WHAT_WAS_RETURNED.has(nameOf(interceptor)));
  if (own === undefined || (attached.some(isOwn) && partOfIt === -1)) {
    return;
  }
  const place = partOfIt === -1 ? others.length : partOfIt;
  const arranged = [...others.slice(0, place), own, ...others.slice(place)];
  Reflect.defineMetadata(INTERCEPTORS_METADATA, arranged, handler);
}

/** Whether the interceptor is there, wherever it comes from. */
export function isAttached(handler: Handler): boolean {
  return attachedInterceptors(handler).some(isOwn);
}

function isOwn(interceptor: unknown): boolean {
  return interceptor === IdempotencyInterceptor || interceptor === INNERMOST;
}

function nameOf(interceptor: unknown): string {
  const type = typeof interceptor === 'function' ? interceptor : (interceptor as object).constructor;
  return type.name;
}
