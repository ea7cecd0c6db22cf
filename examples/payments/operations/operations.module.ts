import { type DynamicModule, Module } from '@nestjs/common';
import { APP_GUARD } from '@nestjs/core';
import { TerminusModule } from '@nestjs/terminus';
import { ThrottlerModule } from '@nestjs/throttler';
import { IdempotencyTelemetryModule } from '../../../src/opentelemetry/index.js';
import { IdempotencyHealthModule } from '../../../src/terminus/index.js';
import { IdempotencyThrottlerGuard } from '../../../src/throttler/index.js';
import { OperationsController } from './operations.controller.js';

/** Metrics, a health check, and a limit that retries do not use up. */
@Module({})
export class OperationsModule {
  /** @param requestsPerMinute of one address to one route */
  static register(requestsPerMinute: number): DynamicModule {
    return {
      module: OperationsModule,
      imports: [
        IdempotencyTelemetryModule,
        IdempotencyHealthModule,
        TerminusModule.forRoot({ logger: false }), // what is wrong is in the answer
        ThrottlerModule.forRoot({ throttlers: [{ limit: requestsPerMinute, ttl: 60_000 }], setHeaders: false }),
      ],
      controllers: [OperationsController],
      providers: [{ provide: APP_GUARD, useClass: IdempotencyThrottlerGuard }],
    };
  }
}
