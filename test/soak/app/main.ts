import type { AddressInfo } from 'node:net';
import { type INestApplication, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { TypeOrmModule } from '@nestjs/typeorm';
import type { Pool } from 'pg';
import { DataSource } from 'typeorm';
import { IdempotencyModule } from '../../../src/index.js';
import { Account } from '../../faults/app/entities.js';
import { spring } from './leak.js';
import {
  APPLICATION_NAME,
  type InstanceConfig,
  POOL_SIZE,
  PURGE_INTERVAL_MS,
  type ReadyMessage,
  type Report,
  TTL_MS,
} from './protocol.js';
import { SoakController } from './soak.controller.js';

// An orphan would go on with its connections.
process.on('disconnect', () => process.exit());

const config = JSON.parse(process.env['SOAK_INSTANCE'] ?? '') as InstanceConfig;

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: config.databaseUrl,
      entities: [Account],
      poolSize: POOL_SIZE,
      applicationName: APPLICATION_NAME,
    }),
    TypeOrmModule.forFeature([Account]),
    IdempotencyModule.forRoot({
      scope: () => '',
      ttlMs: TTL_MS,
      purge: config.leak === 'rows' ? false : { intervalMs: PURGE_INTERVAL_MS, batchSize: 100 },
    }),
  ],
  controllers: [SoakController],
})
class AppModule {}

const adapter = config.adapter === 'express' ? new ExpressAdapter() : new FastifyAdapter();
const app = await NestFactory.create<INestApplication>(AppModule, adapter, { logger: false });
await app.listen(0, '127.0.0.1');
const { master: pool } = app.get(DataSource).driver as unknown as { master: Pool };
spring(config.leak, pool, app.getHttpServer());

process.on('message', () => process.send?.(report()));
process.send?.({ port: (app.getHttpServer().address() as AddressInfo).port } satisfies ReadyMessage);

function report(): Report {
  globalThis.gc!();
  const { heapUsed, external, rss } = process.memoryUsage();
  return {
    heapUsed,
    external,
    rss,
    resources: process.getActiveResourcesInfo().length,
    pool: { total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount },
  };
}
