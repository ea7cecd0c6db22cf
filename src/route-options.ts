import type { ExecutionContext, Type } from '@nestjs/common';
import type { Reflector } from '@nestjs/core';
import { type IdempotentOptions, mergeRouteOptions, type RouteOptions } from './protocol/options.js';
import { IdempotentMetadata } from './idempotent.metadata.js';

type Handler = ReturnType<ExecutionContext['getHandler']>;

/** The options of each route, merged once. */
export class RouteOptionsRegistry {
  private readonly merged = new WeakMap<Type, Map<Handler, RouteOptions>>();

  constructor(
    private readonly reflector: Reflector,
    private readonly defaults: IdempotentOptions,
  ) {}

  ofContext(context: ExecutionContext): RouteOptions {
    return this.of(context.getClass(), context.getHandler());
  }

  of(controller: Type, handler: Handler): RouteOptions {
    let routes = this.merged.get(controller);
    if (routes === undefined) {
      routes = new Map();
      this.merged.set(controller, routes);
    }
    let options = routes.get(handler);
    if (options === undefined) {
      options = mergeRouteOptions(
        this.defaults,
        this.reflector.get(IdempotentMetadata, controller),
        this.reflector.get(IdempotentMetadata, handler),
      );
      routes.set(handler, options);
    }
    return options;
  }
}
