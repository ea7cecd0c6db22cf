import type { AddressInfo } from 'node:net';
import { ConflictException, Controller, Get, type INestApplication, Module, Post } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import type { PoolClient } from 'pg';
import type { Repository } from 'typeorm';
import { IdempotencyContext, IdempotencyModule, Idempotent } from '../../../src/index.js';
import { dataSourceOf } from '../../../src/postgres/data-source-of.js';
import { Effect } from '../../support/effect.entity.js';
import { ADAPTERS, type Adapter } from '../../support/test-app.js';
import type { FromApp, Server, ToApp } from './protocol.js';
import { spans, trace } from './tracers.js';

// An orphan would go on with its connections.
process.on('disconnect', () => process.exit());

const databaseUrl = process.env['APP_DATABASE_URL'];

/** What handlers do that must not end the process. */
@Controller()
class Habits {
  private kept: PoolClient | undefined;

  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  @Post('plainly')
  @Idempotent()
  async plainly(): Promise<string> {
    await this.effects.save({ label: 'plainly' });
    return 'done';
  }

  @Post('unawaited')
  @Idempotent()
  unawaited(): never {
    this.leaveWork();
    throw new ConflictException();
  }

  @Post('unawaited-stored')
  @Idempotent({ storeErrors: () => true })
  unawaitedStored(): never {
    this.leaveWork();
    throw new ConflictException();
  }

  @Post('unawaited-step')
  @Idempotent({ mode: 'lease' })
  async unawaitedStep(@IdempotencyContext() context: IdempotencyContext): Promise<void> {
    await context.transaction('write', () => {
      this.leaveWork();
      throw new ConflictException();
    });
  }

  @Post('released')
  @Idempotent()
  async released(): Promise<string> {
    const runner = dataSourceOf(this.effects.manager).createQueryRunner();
    const client = (await runner.connect()) as PoolClient & { end(): Promise<void> };
    await client.query(`insert into effects (label) values ('released')`);
    client.on('notice', () => undefined);
    client.release();
    client.release(true);
    await client.end();
    await this.effects.save({ label: 'still there' });
    return 'done';
  }

  @Post('kept')
  @Idempotent()
  async keep(): Promise<string> {
    this.kept = (await dataSourceOf(this.effects.manager).createQueryRunner().connect()) as PoolClient;
    return 'done';
  }

  /** The client of a request that is over, used in another one. */
  @Post('kept/use')
  @Idempotent()
  async useInAnotherRequest(): Promise<string> {
    return this.use();
  }

  @Get('kept/use')
  async use(): Promise<string> {
    return this.kept!.query(`insert into effects (label) values ('by a kept client')`).then(
      () => 'written',
      ({ message }: Error) => message,
    );
  }

  @Get('listeners')
  async listeners(): Promise<number> {
    return dataSourceOf(this.effects.manager).transaction(async ({ queryRunner }) => {
      const client = (await queryRunner!.connect()) as PoolClient;
      return client.listenerCount('notice');
    });
  }

  private leaveWork(): void {
    void this.effects.save({ label: 'unawaited' });
    void this.effects.manager.save(Effect, { label: 'unawaited' });
    void this.effects.manager.transaction((manager) => manager.save(Effect, { label: 'unawaited' }));
  }
}

async function serve(adapter: Adapter, pipeline: boolean): Promise<Server> {
  @Module({
    imports: [
      TypeOrmModule.forRoot({
        type: 'postgres',
        url: databaseUrl,
        entities: [Effect],
        poolSize: 1,
        extra: { pipeline },
      }),
      TypeOrmModule.forFeature([Effect]),
      IdempotencyModule.forRoot({ scope: () => `${adapter} ${pipeline}`, purge: false }),
    ],
    controllers: [Habits],
  })
  class AppModule {}

  const underlying = adapter === 'express' ? new ExpressAdapter() : new FastifyAdapter();
  const app = await NestFactory.create<INestApplication>(AppModule, underlying, { logger: false });
  await app.listen(0, '127.0.0.1');
  return { adapter, pipeline, port: (app.getHttpServer().address() as AddressInfo).port };
}

function answer(message: FromApp): void {
  process.send?.(message);
}

process.on('message', (message: ToApp) => {
  if ('trace' in message) {
    trace(message.trace);
    answer({ tracing: message.trace });
  } else {
    answer({ spans: spans() });
  }
});

const servers: Server[] = [];
for (const adapter of ADAPTERS) {
  servers.push(await serve(adapter, false), await serve(adapter, true));
}
answer({ servers });
