import { Controller, Get, Header } from '@nestjs/common';
import { HealthCheck, HealthCheckService } from '@nestjs/terminus';
import { SkipThrottle } from '@nestjs/throttler';
import { IdempotencyHealthIndicator } from '../../../src/terminus/index.js';
import { collectMetrics } from './metrics.js';

/** For machines that look after this one. */
@Controller()
@SkipThrottle()
export class OperationsController {
  constructor(
    private readonly health: HealthCheckService,
    private readonly idempotency: IdempotencyHealthIndicator,
  ) {}

  @Get('health')
  @HealthCheck()
  check() {
    return this.health.check([() => this.idempotency.isHealthy('idempotency')]);
  }

  @Get('metrics')
  @Header('Content-Type', 'text/plain; version=0.0.4; charset=utf-8')
  metrics(): Promise<string> {
    return collectMetrics();
  }
}
