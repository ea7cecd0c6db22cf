import type { AddressInfo } from 'node:net';
import multipart from '@fastify/multipart';
import {
  type INestApplication,
  type LoggerService,
  type ModuleMetadata,
  type Type,
  ValidationPipe,
} from '@nestjs/common';
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

/** How many instances serve over one database: two where `npm run test:instances` runs the tests. */
export const INSTANCES = Number(process.env['TEST_INSTANCES'] ?? 1);

/** Where `npm run test:pgbouncer` has put PgBouncer in front of the database, the applications go through it. */
const POOLER_PORT = process.env['TEST_PGBOUNCER_PORT'];

/** The sessions in PostgreSQL are the pooler's then, and an application has its own only for a transaction. */
export const IS_POOLED = POOLER_PORT !== undefined;

export interface TestAppOptions extends Pick<ModuleMetadata, 'controllers' | 'providers' | 'imports'> {
  adapter: Adapter;
  /** Providers by which a test and its handlers talk: one object for all instances, made without arguments. */
  shared?: Type<object>[];
  /** One whatever the mode, for a test of what a single process does. */
  instances?: 1;
  /** Options of the module; the scope is the shared one unless they say otherwise. */
  idempotency?: IdempotencyModuleOptions;
  /** Beside {@link Effect}. */
  entities?: Type<object>[];
  poolSize?: number;
  /** Further pg options of the DataSource. */
  extra?: object;
  /** An existing database, for two applications over one. */
  databaseUrl?: string;
  /** Whether @fastify/multipart reads uploads, before any interceptor does. @default true */
  multipart?: boolean;
  /** Whether TypeORM makes the tables of the entities. @default true */
  synchronize?: boolean;
  /** Called before the application is initialised. */
  configure?: (app: INestApplication) => void;
}

export interface Instance {
  app: INestApplication;
  port: number;
  dataSource: DataSource;
}

/** `app` and `dataSource` are those of the first instance. */
export interface TestApp extends Instance {
  /** Each look tells the port of the next instance: requests go to one after the other. */
  readonly port: number;
  instances: Instance[];
  databaseUrl: string;
  /** Everything that any instance has logged at `warn` and above since the start. */
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
  const shared = (options.shared ?? []).map((provide) => ({ provide, useValue: new provide() }));
  const instances: Instance[] = [];
  while (instances.length < (options.instances ?? INSTANCES)) {
    instances.push(await startInstance({ ...options, databaseUrl, logs, shared }));
  }
  const next = inTurn(instances);
  const request = (raw: RawRequest): Promise<RawResponse> => rawRequest(next().port, raw);
  const { app, dataSource } = instances[0]!;

  return {
    app,
    dataSource,
    instances,
    databaseUrl,
    logs,
    get port() {
      return next().port;
    },
    request,
    post: (path, key, body = {}, headers = []) =>
      request({
        method: 'POST',
        path,
        headers: [['Content-Type', 'application/json'], ['Idempotency-Key', key], ...headers],
        body: JSON.stringify(body),
      }),
    effects: async () => (await dataSource.manager.find(Effect, { order: { id: 'ASC' } })).map(({ label }) => label),
    close: async () => {
      for (const instance of instances) {
        await instance.app.close();
      }
      await database?.drop();
    },
  };
}

/** One after the other, over and over. */
export function inTurn<T>(all: readonly T[]): () => T {
  let turn = 0;
  return () => all[turn++ % all.length]!;
}

interface InstanceOptions extends Omit<TestAppOptions, 'shared'> {
  databaseUrl: string;
  logs: string[];
  shared: { provide: Type<object>; useValue: object }[];
}

async function startInstance({ databaseUrl, logs, shared, ...options }: InstanceOptions): Promise<Instance> {
  class AppModule {}
  const app = await NestFactory.create<INestApplication>(
    {
      module: AppModule,
      imports: [
        TypeOrmModule.forRoot({
          type: 'postgres',
          url: throughPooler(databaseUrl),
          entities: [Effect, ...(options.entities ?? [])],
          synchronize: options.synchronize ?? true,
          poolSize: options.poolSize ?? 10,
          extra: options.extra,
          retryAttempts: 0,
        }),
        TypeOrmModule.forFeature([Effect]),
        IdempotencyModule.forRoot({ scope: () => '', ...options.idempotency }),
        ...(options.imports ?? []),
      ],
      controllers: options.controllers ?? [],
      providers: [...shared, ...(options.providers ?? [])],
    },
    options.adapter === 'express' ? new ExpressAdapter() : await fastifyAdapter(options.multipart),
    { logger: collectingLogger(logs), abortOnError: false },
  );
  app.useGlobalPipes(new ValidationPipe());
  options.configure?.(app);
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  return { app, port, dataSource: app.get(DataSource) };
}

export function throughPooler(url: string): string {
  if (POOLER_PORT === undefined) {
    return url;
  }
  const pooled = new URL(url);
  pooled.port = POOLER_PORT;
  return pooled.href;
}

async function fastifyAdapter(readsUploads = true): Promise<FastifyAdapter> {
  const adapter = new FastifyAdapter();
  await (readsUploads && adapter.getInstance().register(multipart, { attachFieldsToBody: true }));
  return adapter;
}

export function collectingLogger(logs: string[]): LoggerService {
  const collect = (...parts: unknown[]): void => {
    if (parts.at(-1) === 'DataSourceNameRegistry') {
      return; // it takes the second application of a process for a second DataSource of the first
    }
    if (parts.at(-1) === 'ModuleTokenFactory') {
      return; // NestJS 10 tells how long a module has taken it, on a machine that is busy
    }
    logs.push(parts.map((part) => (part instanceof Error ? (part.stack ?? part.message) : String(part))).join(' '));
  };
  const ignore = (): void => undefined;
  return { log: ignore, debug: ignore, verbose: ignore, warn: collect, error: collect, fatal: collect };
}
