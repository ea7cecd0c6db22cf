import type { DynamicModule, INestApplicationContext, NestMiddleware, Provider, Type } from '@nestjs/common';

/** What makes one variant: its controllers, and what comes with them. */
export interface VariantApp {
  controllers: Type[];
  imports?: DynamicModule[];
  providers?: Provider[];
  /** Tables beside the library's, created before the first request. */
  ddl?: string[];
  middleware?: NestMiddleware['use'];
  purge?(app: INestApplicationContext): Promise<number>;
  release?(): void;
}
