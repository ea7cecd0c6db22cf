import { Body, Controller, Inject, Post } from '@nestjs/common';
import {
  Idempotent,
  type IdempotencyPluginOptions,
  NodeIdempotencyModule,
  StorageAdapterEnum,
} from '@node-idempotency/nestjs';
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

function appOn(storage: IdempotencyPluginOptions['storage']): VariantApp {
  return { imports: [NodeIdempotencyModule.forRootAsync({ storage })], controllers: [OperationsController] };
}

export function onMemory(): VariantApp {
  return appOn({ adapter: StorageAdapterEnum.memory });
}

export function onRedis(): VariantApp {
  const url = process.env['REDIS_URL'];
  if (url === undefined) {
    throw new Error('REDIS_URL is not set');
  }
  // Without these, a server that does not answer would be waited for without end.
  const socket = { connectTimeout: 2000, reconnectStrategy: false as const };
  return appOn({ adapter: StorageAdapterEnum.redis, options: { url, socket } });
}
