import {
  IDEMPOTENCY_STORE,
  IdempotencyModule,
  type IdempotencyRecord,
  type IdempotencyStore,
  Idempotent,
  IdempotencyInterceptor,
} from '@backendkit-labs/idempotency';
import { Body, Controller, Inject, Post } from '@nestjs/common';
import { APP_INTERCEPTOR, Reflector } from '@nestjs/core';
import { DataSource } from 'typeorm';
import { Effect } from '../effect.entity.js';
import type { VariantApp } from '../variant-app.js';

@Controller('operations')
class OperationsController {
  constructor(@Inject(DataSource) private readonly dataSource: DataSource) {}

  @Post()
  @Idempotent()
  async create(@Body() body: unknown): Promise<unknown> {
    await this.dataSource.transaction((manager) => manager.insert(Effect, { label: 'x' }));
    return body;
  }
}

/** What a user would write, since the package has stores for memory and Redis only: each statement commits by itself. */
class PostgresStore implements IdempotencyStore {
  constructor(private readonly dataSource: DataSource) {}

  async setIfAbsent(record: IdempotencyRecord, ttlSeconds: number): Promise<IdempotencyRecord | null> {
    const rows = await this.dataSource.query<unknown[]>(
      `insert into backendkit_keys (key, record, expires_at) values ($1, $2, now() + make_interval(secs => $3))
       on conflict (key) do nothing returning 1`,
      [record.key, JSON.stringify(record), ttlSeconds],
    );
    return rows.length > 0 ? null : this.get(record.key);
  }

  async get(key: string): Promise<IdempotencyRecord | null> {
    const rows = await this.dataSource.query<{ record: IdempotencyRecord }[]>(
      'select record from backendkit_keys where key = $1 and expires_at > now()',
      [key],
    );
    return rows[0]?.record ?? null;
  }

  async complete(key: string, statusCode: number, body: unknown, ttlSeconds: number): Promise<void> {
    await this.dataSource.query(
      `update backendkit_keys set record = record || $2::jsonb, expires_at = now() + make_interval(secs => $3)
       where key = $1`,
      [key, JSON.stringify({ status: 'completed', statusCode, body, completedAt: Date.now() }), ttlSeconds],
    );
  }

  async delete(key: string): Promise<void> {
    await this.dataSource.query('delete from backendkit_keys where key = $1', [key]);
  }
}

export const onMemory: VariantApp = { imports: [IdempotencyModule.forRoot()], controllers: [OperationsController] };

/** The module has no option for another store; its interceptor takes one. */
export const onPostgres: VariantApp = {
  controllers: [OperationsController],
  providers: [
    { provide: IDEMPOTENCY_STORE, inject: [DataSource], useFactory: (db: DataSource) => new PostgresStore(db) },
    {
      provide: APP_INTERCEPTOR,
      inject: [Reflector, IDEMPOTENCY_STORE],
      useFactory: (reflector: Reflector, store: IdempotencyStore) => new IdempotencyInterceptor(reflector, store, {}),
    },
  ],
  ddl: ['create table backendkit_keys (key text primary key, record jsonb not null, expires_at timestamptz not null)'],
};
