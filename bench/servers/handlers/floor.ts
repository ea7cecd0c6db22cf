import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes, randomUUID } from 'node:crypto';
import { Body, Controller, Headers, Inject, Post } from '@nestjs/common';
import { DataSource } from 'typeorm';
import { Effect } from '../effect.entity.js';
import type { VariantApp } from '../variant-app.js';

const HEADERS = JSON.stringify([
  ['Content-Type', 'application/json; charset=utf-8'],
  ['Content-Length', '1024'],
  ['ETag', 'W/"400-8eRC1DFkZS2mRAGVfhnfV8F4Jfo"'],
]);

/** In place of SHA-256: as incompressible, and free of charge. */
const FINGERPRINT = randomBytes(32);

@Controller('operations')
class OperationsController {
  constructor(@Inject(DataSource) private readonly dataSource: DataSource) {}

  @Post()
  async create(@Body() body: unknown, @Headers('idempotency-key') key: string): Promise<unknown> {
    await this.dataSource.transaction(async (manager) => {
      await manager.insert(Effect, { label: 'x' });
      const response = Buffer.from(JSON.stringify(body));
      await manager.query(
        `insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
           response_status, response_headers, response_body, response_bytes, created_at, expires_at)
         values ('', $1, $2, 1, 'POST', '/operations', $3, 201, $4, $5, $6, clock_timestamp(),
           clock_timestamp() + interval '1 day')`,
        [key, FINGERPRINT, randomUUID(), HEADERS, response, response.length],
      );
    });
    return body;
  }
}

export const app: VariantApp = { controllers: [OperationsController] };

const storage = new AsyncLocalStorage<object>();

/** The same in an application that keeps something for each request, as nestjs-cls and OpenTelemetry do. */
export const withAsyncLocalStorage: VariantApp = {
  ...app,
  middleware: (_request, _response, next) => storage.run({}, next),
};
