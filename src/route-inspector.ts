import { Injectable, Logger, type OnModuleInit, RequestMethod, type Type } from '@nestjs/common';
import { GUARDS_METADATA, INTERCEPTORS_METADATA, METHOD_METADATA, SSE_METADATA } from '@nestjs/common/constants.js';
import { ApplicationConfig, DiscoveryService, MetadataScanner, Reflector } from '@nestjs/core';
import { IdempotencyInterceptor } from './idempotency.interceptor.js';
import { IdempotencyOptionError, validateRouteOptions } from './idempotency.options-validation.js';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import { IdempotentMetadata } from './idempotent.metadata.js';
import { sharedScopeIsTold } from './scope.js';

type Handler = (...args: unknown[]) => unknown;

/** Looks at every decorated handler at boot, so that a wrong option fails there and not at the first request. */
@Injectable()
export class RouteInspector implements OnModuleInit {
  private readonly logger = new Logger('Idempotency');

  constructor(
    private readonly runtime: IdempotencyRuntime,
    private readonly discovery: DiscoveryService,
    private readonly scanner: MetadataScanner,
    private readonly reflector: Reflector,
    private readonly application: ApplicationConfig,
  ) {}

  onModuleInit(): void {
    const shared: string[] = [];
    for (const { metatype } of this.discovery.getControllers()) {
      if (typeof metatype !== 'function') {
        continue;
      }
      const controller = metatype as Type;
      validateRouteOptions(this.reflector.get(IdempotentMetadata, controller) ?? {}, controller.name);
      for (const [name, handler] of this.idempotentHandlers(controller)) {
        const where = `${controller.name}.${name}`;
        this.check(handler, where);
        if (this.sharesScope(controller, handler)) {
          sharedScopeIsTold(this.runtime.routes.of(controller, handler));
          shared.push(where);
        }
      }
    }
    if (shared.length > 0) {
      this.logger.warn(
        `No guard can tell who calls ${shared.join(', ')}: all callers share one scope of idempotency keys. ` +
          "Set the option `scope`, or say that this is meant by scope: () => ''.",
      );
    }
  }

  private idempotentHandlers(controller: Type): [string, Handler][] {
    const prototype = controller.prototype as Record<string, Handler>;
    return this.scanner
      .getAllMethodNames(prototype)
      .map((name): [string, Handler] => [name, prototype[name]!])
      .filter(([, handler]) => {
        const interceptors = (Reflect.getMetadata(INTERCEPTORS_METADATA, handler) ?? []) as unknown[];
        return interceptors.includes(IdempotencyInterceptor);
      });
  }

  private check(handler: Handler, where: string): void {
    validateRouteOptions(this.reflector.get(IdempotentMetadata, handler) ?? {}, where);
    if (Reflect.hasMetadata(SSE_METADATA, handler)) {
      throw new IdempotencyOptionError(
        `@Idempotent() of ${where}: an @Sse() stream has no end that could be recorded. Remove @Idempotent().`,
      );
    }
    const method = Reflect.getMetadata(METHOD_METADATA, handler) as RequestMethod | undefined;
    if (method === RequestMethod.GET || method === RequestMethod.HEAD || method === RequestMethod.OPTIONS) {
      throw new IdempotencyOptionError(
        `@Idempotent() of ${where}: ${RequestMethod[method]} is idempotent by definition (RFC 9110, section 9.2.2), and a replay would only serve stale data. Remove @Idempotent().`,
      );
    }
    if (method === RequestMethod.ALL) {
      throw new IdempotencyOptionError(
        `@Idempotent() of ${where}: @All() answers GET, too, which must not be replayed. Name the methods instead, such as @Post().`,
      );
    }
  }

  private sharesScope(controller: Type, handler: Handler): boolean {
    const guards = [
      ...this.application.getGlobalGuards(),
      ...this.application.getGlobalRequestGuards(),
      ...((Reflect.getMetadata(GUARDS_METADATA, controller) ?? []) as unknown[]),
      ...((Reflect.getMetadata(GUARDS_METADATA, handler) ?? []) as unknown[]),
    ];
    return guards.length === 0 && this.runtime.routes.of(controller, handler).scope === undefined;
  }
}
