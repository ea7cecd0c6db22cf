import { inspect } from 'node:util';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { type ArgumentsHost, Catch, type ExceptionFilter, HttpException, type LoggerService } from '@nestjs/common';
import { type AbstractHttpAdapter, HttpAdapterHost } from '@nestjs/core';
import { IdempotencyException } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { queryOn } from '../support/empty-database.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';
import { leakyControllers, LEAKY_SCHEMA, SECRET } from './leaks.controllers.js';

/** All of it, down to what no `toString()` shows. */
const everythingOf = (value: unknown): string => inspect(value, { depth: Infinity, showHidden: true });

describe.each(ADAPTERS)('what PostgreSQL quotes, on %s', (adapter) => {
  let database: TestDatabase;
  let app: TestApp;
  let lines: string[];

  /** Hands the exceptions of the library to a tracker, as many applications do. */
  @Catch()
  class Tracker implements ExceptionFilter {
    constructor(private readonly http: AbstractHttpAdapter) {}

    catch(thrown: unknown, host: ArgumentsHost): void {
      if (thrown instanceof IdempotencyException) {
        lines.push(everythingOf(thrown));
      }
      const exception = thrown instanceof HttpException ? thrown : new HttpException('of the application', 500);
      this.http.reply(host.switchToHttp().getResponse(), exception.getResponse(), exception.getStatus());
    }
  }

  beforeAll(async () => {
    lines = [];
    database = await createTestDatabase();
    await queryOn(database.url, LEAKY_SCHEMA);
    await queryOn(database.url, `alter database ${database.name} set log_parameter_max_length_on_error = -1`);
    const log = (...parts: unknown[]): void => void lines.push(parts.map(everythingOf).join(' '));
    const logger: LoggerService = { log, debug: log, verbose: log, warn: log, error: log, fatal: log };
    app = await createTestApp({
      adapter,
      instances: 1,
      databaseUrl: database.url,
      controllers: [leakyControllers('transaction'), leakyControllers('lease')],
      configure: (application) => {
        application.useLogger(logger);
        application.useGlobalFilters(new Tracker(application.get(HttpAdapterHost).httpAdapter));
      },
    });
  });
  afterAll(async () => {
    await app.close();
    await database.drop();
  });
  beforeEach(() => void (lines = []));

  const logged = (): string => lines.join('\n');

  it.each([
    ['a conflict', '/transaction/conflict', 503, '40001'],
    ['a conflict in a step', '/lease/conflict', 503, '40001'],
    ['a deferred constraint', '/transaction/deferred', 500, '23505'],
    ['a response that cannot be recorded', '/transaction/unrecordable', 503, 'refused'],
    ['a response that cannot be recorded in lease mode', '/lease/unrecordable', 503, 'refused'],
    ['a step that cannot be stored', '/lease/step', 503, 'refused'],
  ])('is in no log, tracker or answer after %s', async (_, path, status, told) => {
    const key = `unrecordable ${path}`;
    const answer = await app.post(path, key, { secret: SECRET });
    expect(answer.status).toBe(status);
    expect(answer.raw.toString()).not.toContain(SECRET);
    expect(logged()).toContain(told); // what has happened is told
    expect(logged()).not.toContain(SECRET);
    expect(logged()).not.toContain(key);
  });

  it.each(['transaction', 'lease'])('is in no log after a callback that fails, in %s mode', async (mode) => {
    expect((await app.post(`/${mode}/after`, `after ${mode}`)).status).toBe(201);
    await waitFor(() => logged().includes('accounts_amount_check'), { what: 'the error to be logged' });
    expect(logged()).not.toContain(SECRET);
  });

  it('is in no log after a step that fails beside its handler', async () => {
    expect((await app.post('/lease/beside', 'beside')).status).toBe(418);
    expect(logged()).not.toContain(SECRET);
  });
});
