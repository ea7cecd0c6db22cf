import { Body, Controller, Get, Post } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { HealthCheckService } from '@nestjs/terminus';
import type { DataSource } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import { IdempotencyHealthIndicator } from '../../../src/terminus/index.js';
import { Effect } from '../../support/effect.entity.js';

export const gate = { entered: deferred(), opened: deferred() };

@Controller()
export class IntegrationsController {
  constructor(
    @InjectDataSource() private readonly dataSource: DataSource,
    private readonly health: HealthCheckService,
    private readonly idempotency: IdempotencyHealthIndicator,
  ) {}

  @Post('payments')
  @Idempotent({ ttlMs: 3_600_000, keyPattern: /[\w-]+/, expiresHeader: 'Idempotency-Expires' })
  async pay(@Body() _body: object): Promise<object> {
    await this.dataSource.getRepository(Effect).save({ label: 'paid' });
    return { paid: true };
  }

  @Post('webhooks')
  @Idempotent({ key: () => 'event', scope: () => 'provider' })
  webhook(): object {
    return {};
  }

  @Post('slow')
  @Idempotent()
  async slow(): Promise<object> {
    gate.entered.resolve();
    await gate.opened.promise;
    return {};
  }

  @Post('transfers')
  @Idempotent({ mode: 'lease', required: false })
  async transfer(@IdempotencyContext() { step }: IdempotencyContext<string | undefined>): Promise<object> {
    return { charged: await step('charge', () => 'yes') };
  }

  @Get('plain')
  plain(): object {
    return {};
  }

  @Get('health')
  check(): unknown {
    return this.health.check([() => this.idempotency.isHealthy('idempotency', { maxInFlightMs: 50 })]);
  }
}
