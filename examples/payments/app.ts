import multipart from '@fastify/multipart';
import { ValidationPipe, type INestApplication, type NestApplicationOptions } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { AppModule } from './app.module.js';

export type Adapter = 'express' | 'fastify';

export interface PaymentsAppOptions {
  adapter: Adapter;
  databaseUrl: string;
  /** Of the service that verifies users. */
  providerUrl: string;
  /**
   * Of one address to one route, in an application with metrics, a health check, a limit and OpenAPI. Without it there is none
   * of that: jest cannot load @nestjs/throttler before Node.js 24.9, as it is CommonJS and NestJS 12 is not.
   */
  requestsPerMinute?: number;
}

/** The application, ready for `listen()`. */
export async function createPaymentsApp(options: PaymentsAppOptions): Promise<INestApplication> {
  const settings: NestApplicationOptions = { logger: ['error', 'warn'], abortOnError: false };
  const { requestsPerMinute } = options;
  const operations = requestsPerMinute === undefined ? undefined : await import('./operations/index.js');
  const module = AppModule.register(
    options,
    operations === undefined ? [] : [operations.OperationsModule.register(requestsPerMinute!)],
  );
  let app: INestApplication;
  if (options.adapter === 'fastify') {
    const fastify = await NestFactory.create<NestFastifyApplication>(module, new FastifyAdapter(), settings);
    await fastify.register(multipart, { attachFieldsToBody: true });
    app = fastify;
  } else {
    app = await NestFactory.create(module, new ExpressAdapter(), settings);
  }
  app.useGlobalPipes(new ValidationPipe({ transform: true, whitelist: true }));
  operations?.serveOpenApi(app);
  return app;
}
