import type { AddressInfo } from 'node:net';
import {
  Body,
  type CanActivate,
  Controller,
  type ExecutionContext,
  Get,
  type INestApplication,
  Module,
  Post,
  UseGuards,
} from '@nestjs/common';
import { APP_GUARD, NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { SkipThrottle, ThrottlerModule } from '@nestjs/throttler';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Idempotent, IdempotencyContext, IdempotencyModule } from '../../../src/index.js';
import { IdempotencyThrottlerGuard } from '../../../src/throttler/index.js';
import { deferred } from '../../../src/util/deferred.js';
import { ADAPTERS, type Adapter } from '../../support/test-app.js';
import { type FromApp, LIMIT } from './protocol.js';

// An orphan would go on with its connections.
process.on('disconnect', () => process.exit());

interface TestRequest {
  headers: Record<string, string | undefined>;
  user?: { id: string };
}

const gate = { inside: 0, opened: deferred() };
let runs = 0;

/** Of who may, but need not, say who he is; behind the guard that counts, which is global. */
class OptionalUser implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const request = context.switchToHttp().getRequest<TestRequest>();
    const id = request.headers['x-user'];
    if (id !== undefined) request.user = { id };
    return true;
  }
}

@Controller()
@UseGuards(OptionalUser)
class Payments {
  @Post('transaction')
  @Idempotent()
  pay(@Body() _body: object): object {
    return { runs: ++runs };
  }

  @Post('lease')
  @Idempotent({ mode: 'lease' })
  async charge(@IdempotencyContext() { step }: IdempotencyContext): Promise<object> {
    return { runs: await step('charge', () => ++runs) };
  }

  @Post('unstored')
  @Idempotent({ store: false })
  unstored(): object {
    return { runs: ++runs };
  }

  @Post('hidden')
  @Idempotent({ authorizeReplay: () => false })
  hidden(): object {
    return { runs: ++runs };
  }

  @Post('observed')
  @Idempotent({ mode: 'observe' })
  observed(): object {
    return { runs: ++runs };
  }

  @Post('plain')
  plain(): object {
    return { runs: ++runs };
  }

  @Post('slow')
  @Idempotent()
  async slow(): Promise<object> {
    gate.inside++;
    await gate.opened.promise;
    return { runs: ++runs };
  }

  @Get('inside')
  @SkipThrottle()
  inside(): object {
    return { inside: gate.inside };
  }

  @Get('open')
  @SkipThrottle()
  open(): object {
    gate.opened.resolve();
    gate.opened = deferred();
    return {};
  }
}

async function serve(adapter: Adapter): Promise<number> {
  @Module({
    imports: [
      TypeOrmModule.forRoot({ type: 'postgres', url: process.env['APP_DATABASE_URL'], poolSize: 4 }),
      ThrottlerModule.forRoot({
        throttlers: [{ limit: LIMIT, ttl: 3_600_000 }],
        getTracker: (request) => (request as TestRequest).headers['x-client'] ?? 'nobody',
      }),
      IdempotencyModule.forRoot({ sharedScope: 'warn', purge: false }),
    ],
    controllers: [Payments],
    providers: [{ provide: APP_GUARD, useClass: IdempotencyThrottlerGuard }],
  })
  class AppModule {}

  const underlying = adapter === 'express' ? new ExpressAdapter() : new FastifyAdapter();
  const app = await NestFactory.create<INestApplication>(AppModule, underlying, { logger: false, abortOnError: false });
  await app.listen(0, '127.0.0.1');
  return (app.getHttpServer().address() as AddressInfo).port;
}

const ports: FromApp['ports'] = {};
for (const adapter of ADAPTERS) {
  ports[adapter] = await serve(adapter);
}
process.send?.({ ports } satisfies FromApp);
