import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect } from '@jest/globals';
import {
  Body,
  Controller,
  type DynamicModule,
  type INestApplication,
  Injectable,
  type LoggerService,
  type ModuleMetadata,
  Post,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import type { Repository } from 'typeorm';
import { Idempotent } from '../../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { Effect } from '../../support/effect.entity.js';
import { queryOn } from '../../support/empty-database.js';
import { rawRequest, type RawResponse } from '../../support/raw-http.js';

export let database: TestDatabase;

/** What is to be done after the test, the last one first. */
export let undo: (() => Promise<unknown>)[];

export function withADatabaseEach(): void {
  beforeEach(async () => {
    database = await createTestDatabase();
    undo = [database.drop];
  });

  afterEach(async () => {
    for (const step of undo.toReversed()) await step();
  });
}

export const typeOrm = (options: object = {}) =>
  TypeOrmModule.forRoot({
    type: 'postgres',
    url: database.url,
    entities: [Effect],
    synchronize: true,
    retryAttempts: 0,
    ...options,
  });

/** What handlers do in the database: a row for each time. */
@Injectable()
export class Effects {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  async add(label: string): Promise<{ label: string }> {
    await this.effects.save({ label });
    return { label };
  }

  async labels(): Promise<string[]> {
    return (await this.effects.find({ order: { id: 'ASC' } })).map(({ label }) => label);
  }
}

@Controller('things')
export class Things {
  constructor(private readonly effects: Effects) {}

  @Post()
  @Idempotent()
  create(@Body() { label = 'thing', fail = false }: { label?: string; fail?: boolean }) {
    return fail ? this.fail(label) : this.effects.add(label);
  }

  private async fail(label: string): Promise<never> {
    await this.effects.add(label);
    throw new Error('the handler failed');
  }
}

export interface Running {
  app: INestApplication;
  port: number;
  post(path: string, key?: string, body?: object): Promise<RawResponse>;
  effects(): Promise<string[]>;
}

export interface AppOptions extends Pick<ModuleMetadata, 'imports' | 'controllers' | 'providers'> {
  /** Called before the application is initialised. */
  configure?: (app: INestApplication) => void;
}

/** What was logged at `warn` and above by the last application. */
export let logs: string[];

/** An application with the default DataSource, and `Things` unless other controllers are given. */
export function boot(idempotency: DynamicModule | undefined, options: AppOptions = {}): Promise<Running> {
  return bootWith({
    ...options,
    imports: [
      typeOrm(),
      TypeOrmModule.forFeature([Effect]),
      ...(idempotency === undefined ? [] : [idempotency]),
      ...(options.imports ?? []),
    ],
    controllers: options.controllers ?? [Things],
    providers: [Effects, ...(options.providers ?? [])],
  });
}

export async function bootWith({ configure, ...metadata }: AppOptions): Promise<Running> {
  class AppModule {}
  const app = await NestFactory.create<INestApplication>(
    { module: AppModule, ...metadata },
    { logger: newLogger(), abortOnError: false },
  );
  undo.push(() => app.close());
  configure?.(app);
  return listen(app);
}

export async function listen(app: INestApplication): Promise<Running> {
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  return {
    app,
    port,
    effects: () => app.get(Effects).labels(),
    post: (path, key, body = {}) =>
      rawRequest(port, {
        method: 'POST',
        path,
        headers: [
          ['Content-Type', 'application/json'],
          ...(key === undefined ? [] : [['Idempotency-Key', key] as const]),
        ],
        body: JSON.stringify(body),
      }),
  };
}

export function newLogger(): LoggerService {
  logs = [];
  return collectingLogger(logs);
}

function collectingLogger(lines: string[]): LoggerService {
  const collect = (...parts: unknown[]): void => {
    lines.push(parts.map((part) => (part instanceof Error ? (part.stack ?? part.message) : String(part))).join(' '));
  };
  const ignore = (): void => undefined;
  return { log: ignore, debug: ignore, verbose: ignore, warn: collect, error: collect, fatal: collect };
}

/** What the start of an application ended in, which must be an error. */
export async function bootError(starting: Promise<Running>): Promise<Error> {
  const error: unknown = await starting.then(
    () => new TypeError('the application started'),
    (thrown: unknown) => thrown,
  );
  return error as Error;
}

interface KeyRow {
  scope: string;
  key: string;
  response_status: number;
  ttl: number;
}

export const keyRows = (table = 'idempotency_keys', url = database.url) =>
  queryOn<KeyRow>(
    url,
    `select scope, key, response_status, extract(epoch from expires_at - created_at)::float8 * 1000 as ttl
     from ${table} order by key`,
  );

export const REPLAYED = 'Idempotency-Replayed: true';

/** Posts twice with one key, and answers with the bytes of both when they are what they should be. */
export async function expectOneExecution(test: Running, path = '/things'): Promise<void> {
  const before = await test.effects();
  const first = await test.post(path, 'abc');
  const second = await test.post(path, 'abc');
  expect(first.status).toBe(201);
  expect(first.headerLines).toContain('Idempotency-Key: abc');
  expect(first.headerLines).not.toContain(REPLAYED);
  expect(second.headerLines).toContain(REPLAYED);
  expect(second.body.equals(first.body)).toBe(true);
  expect(await test.effects()).toEqual([...before, 'thing']);
}
