import type { INestApplication, LoggerService, Type } from '@nestjs/common';
import type { IdempotencyModuleOptions } from '../../../src/index.js';
import { type Adapter, createTestApp, type TestApp } from '../../support/test-app.js';

/** A test application that keeps every line of its log, of every level, from the moment it listens. */
export async function startTest(
  adapter: Adapter,
  controllers: Type[],
  idempotency?: IdempotencyModuleOptions,
): Promise<TestApp & { lines: string[] }> {
  const lines: string[] = [];
  const collect = (...parts: unknown[]): void => {
    lines.push(parts.map((part) => (part instanceof Error ? part.stack : String(part))).join(' '));
  };
  const logger: LoggerService = {
    log: collect,
    warn: collect,
    error: collect,
    fatal: collect,
    debug: collect,
    verbose: collect,
  };
  const test = await createTestApp({
    adapter,
    controllers,
    idempotency: { purge: false, ...idempotency },
    configure: (app: INestApplication) => app.useLogger(logger),
  });
  lines.length = 0;
  return Object.assign(test, { lines });
}
