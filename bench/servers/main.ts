import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { Effect } from './effect.entity.js';
import { loadApp } from './handlers/index.js';
import { Profiler } from './profiler.js';
import { type Command, type Greeting, POOL_SIZE, type Reply } from './protocol.js';
import type { VariantApp } from './variant-app.js';

/** One server under test: `main.js <variant>`, started by the bench, which is told where it listens. */
async function start(id: string): Promise<{ app: NestExpressApplication; variant: VariantApp }> {
  const variant = await loadApp(id);

  @Module({
    imports: [
      TypeOrmModule.forRoot({
        type: 'postgres',
        url: process.env['DATABASE_URL'],
        entities: [Effect],
        poolSize: POOL_SIZE,
        retryAttempts: 0,
      }),
      ...(variant.imports ?? []),
    ],
    providers: variant.providers ?? [],
    controllers: variant.controllers,
  })
  class AppModule {}

  const app = await NestFactory.create<NestExpressApplication>(AppModule, { logger: ['error'], abortOnError: false });
  app.useBodyParser('json', { limit: '2mb' });
  if (variant.middleware !== undefined) {
    app.use(variant.middleware);
  }
  for (const statement of variant.ddl ?? []) {
    await app.get(DataSource).query(statement);
  }
  await app.listen(0, '127.0.0.1');
  return { app, variant };
}

async function main(): Promise<void> {
  const greet = (greeting: Greeting) => process.send!(greeting);
  const { app, variant } = await start(process.argv[2] ?? '');
  const profiler = new Profiler();

  const obey = async (command: Command): Promise<unknown> => {
    switch (command.do) {
      case 'cpu': {
        const { user, system } = process.cpuUsage();
        return user + system;
      }
      case 'start profile':
        return profiler.start(command.intervalUs);
      case 'stop profile':
        return profiler.stop();
      case 'purge':
        return variant.purge?.(app);
      case 'release':
        return variant.release?.();
    }
  };
  process.on('message', (command: Command) => {
    obey(command).then(
      (value) => process.send!({ value } satisfies Reply),
      (error: unknown) => process.send!({ error: String(error) } satisfies Reply),
    );
  });
  // The bench closes the channel when it is done with this server, and so does its end, whatever that is.
  process.once('disconnect', () => {
    const lastResort = setTimeout(() => process.exit(1), 5000);
    lastResort.unref();
    variant.release?.();
    app.getHttpServer().closeAllConnections();
    void app.close().finally(() => process.exit(0));
  });
  const { port } = app.getHttpServer().address() as { port: number };
  greet({ port });
}

main().catch((error: unknown) => {
  process.send!({ error: error instanceof Error ? error.message : String(error) } satisfies Greeting, () =>
    process.exit(1),
  );
});
