import { afterEach, describe, expect, it } from '@jest/globals';
import { type CallHandler, Controller, Get, type INestApplication, type LoggerService, Post } from '@nestjs/common';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { Test } from '@nestjs/testing';
import { IdempotencyInterceptor, Idempotent, type IdempotencyMode } from '../../../src/index.js';
import { rawRequest } from '../../support/raw-http.js';
import { ADAPTERS } from '../../support/test-app.js';

function controllersOf(mode: IdempotencyMode) {
  @Controller(`${mode}/method`)
  class OfMethod {
    @Post()
    @Idempotent({ mode })
    create() {
      return { created: true };
    }
  }

  @Controller(`${mode}/class`)
  @Idempotent({ mode })
  class OfClass {
    @Post()
    create() {
      return { created: true };
    }

    @Get()
    get() {
      return { got: true };
    }
  }
  return [OfMethod, OfClass] as const;
}

describe.each(ADAPTERS)('a controller without the module, on %s', (adapter) => {
  let app: INestApplication | undefined;
  afterEach(() => app?.close());

  it.each(['transaction', 'lease'] as const)(
    'is constructed and called by its unit test, but refuses requests, in %s mode',
    async (mode) => {
      const [OfMethod, OfClass] = controllersOf(mode);
      const testing = await Test.createTestingModule({ controllers: [OfMethod, OfClass] }).compile();
      expect(testing.get(OfMethod).create()).toEqual({ created: true });
      expect(testing.get(OfClass).create()).toEqual({ created: true });

      const logs: string[] = [];
      const log = (...parts: unknown[]): void => void logs.push(parts.map(String).join(' '));
      const logger: LoggerService = { log: () => undefined, warn: log, error: log, fatal: log };
      app = testing.createNestApplication(adapter === 'express' ? new ExpressAdapter() : new FastifyAdapter(), {
        logger,
      });
      await app.listen(0, '127.0.0.1');
      const { port } = app.getHttpServer().address() as { port: number };
      for (const path of [`/${mode}/method`, `/${mode}/class`]) {
        expect((await rawRequest(port, { method: 'POST', path, headers: [['Idempotency-Key', 'k']] })).status).toBe(
          500,
        );
        expect(logs.at(-1)).toContain('Add IdempotencyModule.forRoot() to the imports of the root module.');
      }
      expect(logs.map((line) => /of (\w+\.\w+):/.exec(line)?.[1])).toEqual(['OfMethod.create', 'OfClass.create']);
      expect((await rawRequest(port, { method: 'GET', path: `/${mode}/class` })).status).toBe(200);
    },
  );

  it.each(['transaction', 'lease'] as const)(
    'runs unprotected where its test replaces the interceptor, in %s mode',
    async (mode) => {
      const testing = await Test.createTestingModule({ controllers: [...controllersOf(mode)] })
        .overrideInterceptor(IdempotencyInterceptor)
        .useValue({ intercept: (_: unknown, next: CallHandler) => next.handle() })
        .compile();
      app = testing.createNestApplication(adapter === 'express' ? new ExpressAdapter() : new FastifyAdapter(), {
        logger: false,
      });
      await app.listen(0, '127.0.0.1');
      const { port } = app.getHttpServer().address() as { port: number };
      for (const path of [`/${mode}/method`, `/${mode}/class`]) {
        expect((await rawRequest(port, { method: 'POST', path })).status).toBe(201);
      }
    },
  );
});
