import type { AddressInfo } from 'node:net';
import multipart from '@fastify/multipart';
import { type INestApplication, type LoggerService, type ModuleMetadata, ValidationPipe } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { IdempotencyModule, type IdempotencyModuleOptions } from '../../src/index.js';
import { createTestDatabase } from './database.js';
import { Effect } from './effect.entity.js';
import { type RawRequest, type RawResponse, rawRequest } from './raw-http.js';

export const ADAPTERS = ['express', 'fastify'] as const;
export type Adapter = (typeof ADAPTERS)[number];

export interface TestAppOptions extends Pick<ModuleMetadata, 'controllers' | 'providers' | 'imports'> {
  adapter: Adapter;
  /** Options of the module; the scope is the shared one unless they say otherwise. */
  idempotency?: IdempotencyModuleOptions;
  poolSize?: number;
  /** Further pg options of the DataSource. */
  extra?: object;
  /** An existing database, for two applications over one. */
  databaseUrl?: string;
  /** Called before the application is initialised. */
  configure?: (app: INestApplication) => void;
}

export interface TestApp {
  app: INestApplication;
  port: number;
  dataSource: DataSource;
  databaseUrl: string;
  /** Everything that was logged at `warn` and above since the start. */
  logs: string[];
  post(path: string, key: string, body?: unknown, headers?: [string, string][]): Promise<RawResponse>;
  request(request: RawRequest): Promise<RawResponse>;
  effects(): Promise<string[]>;
  close(): Promise<void>;
}

/** A real application over a real database, listening on a free port of the loopback. */
export async function createTestApp(options: TestAppOptions): Promise<TestApp> {
  const database = options.databaseUrl === undefined ? await createTestDatabase() : undefined;
  const databaseUrl = options.databaseUrl ?? database!.url;
  const logs: string[] = [];

  class AppModule {}
  const app = await NestFactory.create<INestApplication>(
    {
      module: AppModule,
      imports: [
        TypeOrmModule.forRoot({
          type: 'postgres',
          url: throughPooler(databaseUrl),
          entities: [Effect],
          synchronize: true,
          poolSize: options.poolSize ?? 10,
          extra: options.extra,
          retryAttempts: 0,
        }),
        TypeOrmModule.forFeature([Effect]),
        IdempotencyModule.forRoot({ scope: () => '', ...options.idempotency }),
        ...(options.imports ?? []),
      ],
      controllers: options.controllers ?? [],
      providers: options.providers ?? [],
    },
    options.adapter === 'express' ? new ExpressAdapter() : await fastifyAdapter(),
    { logger: collectingLogger(logs) },
  );
  app.useGlobalPipes(new ValidationPipe());
  options.configure?.(app);
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  const dataSource = app.get(DataSource);

  return {
    app,
    port,
    dataSource,
    databaseUrl,
    logs,
    request: (request) => rawRequest(port, request),
    post: (path, key, body = {}, headers = []) =>
      rawRequest(port, {
        method: 'POST',
        path,
        headers: [['Content-Type', 'application/json'], ['Idempotency-Key', key], ...headers],
        body: JSON.stringify(body),
      }),
    effects: async () => (await dataSource.manager.find(Effect, { order: { id: 'ASC' } })).map(({ label }) => label),
    close: async () => {
      await app.close();
      await database?.drop();
    },
  };
}

/** Where `npm run test:pgbouncer` has put PgBouncer in front of the database, the application goes through it. */
function throughPooler(url: string): string {
  const port = process.env['TEST_PGBOUNCER_PORT'];
  if (port === undefined) {
    return url;
  }
  const pooled = new URL(url);
  pooled.port = port;
  return pooled.href;
}

async function fastifyAdapter(): Promise<FastifyAdapter> {
  const adapter = new FastifyAdapter();
  await adapter.getInstance().register(multipart, { attachFieldsToBody: true });
  return adapter;
}

function collectingLogger(logs: string[]): LoggerService {
  const collect = (...parts: unknown[]): void => {
    logs.push(parts.map((part) => (part instanceof Error ? (part.stack ?? part.message) : String(part))).join(' '));
  };
  const ignore = (): void => undefined;
  return { log: ignore, debug: ignore, verbose: ignore, warn: collect, error: collect, fatal: collect };
}
