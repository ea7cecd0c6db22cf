import { type DynamicModule, Module, type NestModule } from '@nestjs/common';
import { DiscoveryService, MetadataScanner, ModulesContainer } from '@nestjs/core';
import {
  type ASYNC_OPTIONS_TYPE,
  ConfigurableModuleClass,
  type OPTIONS_TYPE,
} from './idempotency.module-definition.js';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import { IdempotencyService } from './idempotency.service.js';
import { PurgeService } from './purge/purge.service.js';
import { RouteInspector } from './route-inspector.js';

@Module({
  providers: [
    MetadataScanner,
    {
      // What DiscoveryModule does, but for that there may be another NestJS, which IdempotencyRuntime tells.
      provide: DiscoveryService,
      useFactory: (modules: ModulesContainer) => new DiscoveryService(modules),
      inject: [{ token: ModulesContainer, optional: true }],
    },
    IdempotencyRuntime,
    RouteInspector,
    PurgeService,
    IdempotencyService,
  ],
  exports: [IdempotencyRuntime, IdempotencyService],
})
export class IdempotencyModule extends ConfigurableModuleClass implements NestModule {
  /** @internal */
  constructor(private readonly routes: RouteInspector) {
    super();
  }

  /** What NestJS calls before it registers the routes. */
  configure(): void {
    this.routes.attach();
  }

  /**
   * Keeps idempotency keys in the application's default TypeORM DataSource, or in the one that `dataSource` names.
   * Global: import it once, in the root module.
   */
  static override forRoot(options: typeof OPTIONS_TYPE = {}): DynamicModule {
    return super.forRoot(options);
  }

  /** The same, with options from `useFactory`, `useClass` or `useExisting` (`createIdempotencyOptions()`). */
  static override forRootAsync(options: typeof ASYNC_OPTIONS_TYPE): DynamicModule {
    return super.forRootAsync(options);
  }
}
