import { BadRequestException, Body, Controller, HttpCode, Param, Post, Query } from '@nestjs/common';
import { IdempotencyContext, Idempotent } from '../../../src/index.js';

/** Stands for a provider: each call is an effect that no transaction undoes. */
export const provider: string[] = [];

/** What a handler does when it is asked to, by name. */
export const scripts: Record<string, (context: IdempotencyContext, body: Record<string, unknown>) => unknown> = {};

/** What handlers met that nobody sees on the wire. */
export const seen: unknown[] = [];

/** Longer than a busy machine keeps any process waiting; where a lease has to expire it is back-dated. */
const LEASE_MS = 6_000;

/** For what happens by renewals, or in spite of none. */
const SHORT_LEASE_MS = 1_500;

@Controller()
export class LeaseController {
  @Post('run/:script')
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS, storeErrors: (status) => status === 402 })
  run(
    @IdempotencyContext() context: IdempotencyContext,
    @Param('script') script: string,
    @Body() body: Record<string, unknown>,
  ): unknown {
    return scripts[script]!(context, body);
  }

  @Post('fail/:script')
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS, onInterrupted: 'fail', timeoutMs: 300 })
  fail(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('wait/:script')
  @HttpCode(202)
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS, inFlight: { waitMs: 10_000 } })
  wait(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('short/:script')
  @Idempotent({ mode: 'lease', leaseMs: SHORT_LEASE_MS })
  short(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('strict/:script')
  @Idempotent({ mode: 'lease', leaseMs: SHORT_LEASE_MS, isolation: 'SERIALIZABLE', retries: 10 })
  strict(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('plain/:script')
  @Idempotent()
  plain(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('validated')
  @Idempotent({ mode: 'lease' })
  validated(@Query('amount') amount: string): unknown {
    if (!amount) throw new BadRequestException('no amount');
    provider.push(`charge ${amount}`);
    return { amount };
  }
}
