import type { AddressInfo } from 'node:net';
import { Global, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { getDataSourceToken } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { IdempotencyModule, IdempotencyService } from '../../src/index.js';
import { type RawResponse, rawRequest } from './raw-http.js';
import { script, type Script, ScriptedController } from './scripted-routes.js';
import { type Adapter, collectingLogger } from './test-app.js';

export type Place = 'transaction' | 'storing' | 'step' | 'plain';

/** An application over a DataSource that is not its own to close. */
export interface ScriptedApp {
  service: IdempotencyService;
  /** What was logged at `warn` and above. */
  logs: string[];
  /** Has a handler do `work`, each time with a key of its own unless one is given. */
  run(place: Place, work: Script, key?: string): Promise<RawResponse>;
  close(): Promise<void>;
}

export async function startScriptedApp(dataSource: DataSource, adapter: Adapter): Promise<ScriptedApp> {
  @Global()
  @Module({
    providers: [{ provide: getDataSourceToken(), useValue: dataSource }],
    exports: [getDataSourceToken()],
  })
  class DatabaseModule {}

  @Module({
    imports: [DatabaseModule, IdempotencyModule.forRoot({ scope: () => '' })],
    controllers: [ScriptedController],
  })
  class AppModule {}

  const http = adapter === 'express' ? new ExpressAdapter() : new FastifyAdapter();
  const logs: string[] = [];
  const app = await NestFactory.create(AppModule, http, { logger: collectingLogger(logs) });
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  let keys = 0;
  return {
    service: app.get(IdempotencyService),
    logs,
    run: (place, work, key = `key ${keys++} of ${port}`) =>
      rawRequest(port, {
        method: 'POST',
        path: `/${place}/${script(work)}`,
        headers: [['Idempotency-Key', key]],
      }),
    close: () => app.close(),
  };
}
