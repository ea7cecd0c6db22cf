import { Injectable, Logger, type OnModuleInit, Optional, type Type } from '@nestjs/common';
import { CONTROLLER_WATERMARK, GUARDS_METADATA, SSE_METADATA } from '@nestjs/common/constants.js';
import { ApplicationConfig, DiscoveryService, MetadataScanner, Reflector } from '@nestjs/core';
import { IdempotencyInterceptor } from './idempotency.interceptor.js';
import { IdempotencyOptionError, validateRouteOptions } from './options-validation.js';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import { otherLibrary } from './two-copies.js';
import {
  attachedInterceptors,
  attachToHandlers,
  type Handler,
  hasOwnOptions,
  isAttached,
  isIdempotent,
  isRoute,
  madeOf,
  methodsOf,
} from './idempotent-handlers.js';
import { IdempotentMetadata } from './idempotent.metadata.js';
import { isSafe, methodOf } from './safe-methods.js';
import { sharedScopeIsTold } from './http/scope.js';

type Host = ReturnType<DiscoveryService['getControllers']>[number]['host'];

/** What `@MessagePattern()` and its kin of @nestjs/microservices leave on a handler, which is no dependency. */
const MESSAGE_PATTERN_METADATA = 'microservices:pattern';

/** Looks at every decorated handler at boot, so that a wrong option fails there and not at the first request. */
@Injectable()
export class RouteInspector implements OnModuleInit {
  private readonly logger = new Logger('Idempotency');

  /** What is optional is there, or the runtime has told why not. */
  constructor(
    private readonly runtime: IdempotencyRuntime,
    private readonly discovery: DiscoveryService,
    private readonly scanner: MetadataScanner,
    @Optional() private readonly reflector: Reflector,
    @Optional() private readonly application: ApplicationConfig,
  ) {}

  /** Before NestJS registers the routes: it reads then what is attached to them. */
  attach(): void {
    this.controllers().forEach(({ controller }) => attachToHandlers(this.scanner, controller));
  }

  onModuleInit(): void {
    const shared: string[] = [];
    for (const { controller, host } of this.controllers()) {
      validateRouteOptions(this.reflector.get(IdempotentMetadata, controller) ?? {}, controller.name);
      const methods = methodsOf(this.scanner, controller);
      for (const [name, method] of methods) {
        const where = `${controller.name}.${name}`;
        checkCopy(controller, method, where);
        if (isIdempotent(controller, method)) {
          this.check(method, where);
          checkModule(host, where);
          if (this.sharesScope(controller, method)) {
            sharedScopeIsTold(this.runtime.routes.of(controller, method));
            shared.push(where);
          }
        } else if (hasOwnOptions(method) && !isRoute(method) && !madeOf(name, methods).some(isAttached)) {
          refuse(where, noHandler(method));
        }
      }
    }
    this.checkProviders();
    if (shared.length > 0) {
      this.logger.warn(
        `No guard can tell who calls ${shared.join(', ')}: all callers share one scope of idempotency keys. ` +
          "Set the option `scope`, or say that this is meant by scope: () => ''.",
      );
    }
  }

  private controllers(): { controller: Type; host: Host }[] {
    return this.discovery
      .getControllers()
      .filter(({ metatype }) => typeof metatype === 'function')
      .map(({ metatype, host }) => ({ controller: metatype as Type, host }));
  }

  /** A decorated service would run unprotected, without a word. */
  private checkProviders(): void {
    for (const { metatype, isNotMetatype } of this.discovery.getProviders()) {
      const isClass = typeof metatype === 'function' && !isNotMetatype && metatype.prototype !== undefined;
      if (!isClass || Reflect.hasMetadata(CONTROLLER_WATERMARK, metatype)) {
        continue;
      }
      const decorated = methodsOf(this.scanner, metatype as Type).find(([, method]) => hasOwnOptions(method));
      if (decorated !== undefined) {
        refuse(`${metatype.name}.${decorated[0]}`, noHandler(decorated[1]));
      }
    }
  }

  private check(handler: Handler, where: string): void {
    validateRouteOptions(this.reflector.get(IdempotentMetadata, handler) ?? {}, where);
    if (Reflect.hasMetadata(SSE_METADATA, handler)) {
      refuse(where, 'an @Sse() stream has no end that could be recorded. Remove @Idempotent().');
    }
    if (Reflect.hasMetadata(MESSAGE_PATTERN_METADATA, handler)) {
      refuse(where, 'it answers messages, too, which have no idempotency key. Give them a method of their own.');
    }
    const method = methodOf(handler);
    if (isSafe(handler)) {
      refuse(
        where,
        `${method} is idempotent by definition (RFC 9110, section 9.2.2), and a replay would only serve stale data. Remove @Idempotent().`,
      );
    }
    if (method === 'ALL') {
      refuse(where, '@All() answers GET, too, which must not be replayed. Name the methods instead, such as @Post().');
    }
    if (!isAttached(handler)) {
      refuse(
        where,
        'another decorator has taken its interceptor away. Put @Idempotent() above the decorators that set all interceptors of a handler.',
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

/** A decorator of another copy would have its requests fail one by one, for want of a module that it knows. */
function checkCopy(controller: Type, handler: Handler, where: string): void {
  const twoCopies = otherLibrary(
    [...attachedInterceptors(handler), ...attachedInterceptors(controller)],
    IdempotencyInterceptor,
  );
  if (twoCopies !== undefined) {
    refuse(where, twoCopies);
  }
}

/** NestJS makes the interceptors in each module of a controller, with what that module can see. */
function checkModule(host: Host, where: string): void {
  const interceptor = host?.injectables.get(IdempotencyInterceptor)?.instance as { hasModule?: boolean } | undefined;
  if (host !== undefined && interceptor?.hasModule === false) {
    refuse(
      where,
      `${host.metatype.name} does not import IdempotencyModule, which is not global here. Import it there, or leave \`isGlobal: false\` out.`,
    );
  }
}

function noHandler(method: Handler): string {
  return Reflect.hasMetadata(MESSAGE_PATTERN_METADATA, method)
    ? 'it answers messages, which have no idempotency key. Remove @Idempotent().'
    : 'it is no handler of a controller, so no request reaches it. Decorate the method that has @Post() or the like, or its class.';
}

function refuse(where: string, why: string): never {
  throw new IdempotencyOptionError(`@Idempotent() of ${where}: ${why}`);
}
