import type { AddressInfo } from 'node:net';
import { type INestApplication, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { TypeOrmModule } from '@nestjs/typeorm';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { IdempotencyModule } from '../../../src/index.js';
import { Account, Booking, Effect, Posting } from './entities.js';
import { moveClock, obeyParent } from './fault-controls.js';
import { LeasesController } from './leases.controller.js';
import { OperatorController } from './operator.controller.js';
import { PaymentsController } from './payments.controller.js';
import { BOOT_FAILED, type InstanceConfig, type PoolReport, type ReadyMessage } from './protocol.js';
import { Provider } from './provider.js';
import { BookingsService, LedgerService, PaymentsService } from './services.js';

const ENTITIES = [Effect, Posting, Account, Booking];

/** The application under test: one of several instances over one database, made to be killed. */
async function main(): Promise<void> {
  const config = JSON.parse(process.env['FAULTS_INSTANCE'] ?? '') as InstanceConfig;
  obeyParent(() => poolReport(dataSource));
  let dataSource: DataSource;
  moveClock(config.clockOffsetMs);

  class AppModule {}
  Module({
    imports: [
      TypeOrmModule.forRoot({
        type: 'postgres',
        driver: pg, // TypeORM would look for it among files that were bundled
        url: config.databaseUrl,
        applicationName: config.name,
        entities: ENTITIES,
        poolSize: config.poolSize,
        connectTimeoutMS: 1_500,
        // PostgreSQL may be down while an instance starts.
        retryAttempts: 100,
        retryDelay: 100,
      }),
      TypeOrmModule.forFeature(ENTITIES),
      // The shortest interval: the purge is always about to run.
      IdempotencyModule.forRoot({ scope: () => '', timeoutMs: 1_000, purge: { intervalMs: 1_000, batchSize: 20 } }),
    ],
    controllers: [PaymentsController, LeasesController, OperatorController],
    providers: [
      PaymentsService,
      LedgerService,
      BookingsService,
      { provide: Provider, useValue: new Provider(config.providerUrl) },
    ],
  })(AppModule);

  const adapter = config.adapter === 'express' ? new ExpressAdapter() : new FastifyAdapter();
  const app = await NestFactory.create<INestApplication>(AppModule, adapter, { logger: false, abortOnError: false });
  await app.listen(0, '127.0.0.1');
  dataSource = app.get(DataSource);
  const { port } = app.getHttpServer().address() as AddressInfo;
  process.send?.({ port, bootMs: performance.now() } satisfies ReadyMessage);
}

function poolReport(dataSource: DataSource): PoolReport {
  const { totalCount, idleCount, waitingCount } = (dataSource.driver as unknown as { master: pg.Pool }).master;
  return { total: totalCount, idle: idleCount, waiting: waitingCount };
}

// Without a database there is no application; the suite starts another one.
main().catch((error: unknown) => {
  console.error(error);
  process.exit(BOOT_FAILED);
});
