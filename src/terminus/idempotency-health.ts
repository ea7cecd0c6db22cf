import { Injectable, Module } from '@nestjs/common';
import { IdempotencyRuntime } from '../idempotency.runtime.js';

export interface IdempotencyHealthOptions {
  /** How long an expired key may wait for the purge, in milliseconds. @default 3600000 (1 h), six purges */
  maxPurgeLagMs?: number;
  /** How long a request of this process may be under way, in milliseconds. @default 600000 (10 min) */
  maxInFlightMs?: number;
}

/** In the form of `HealthIndicatorResult` of @nestjs/terminus 11 and 12. */
export type IdempotencyHealth<Key extends string = string> = Record<
  Key,
  { status: 'up' | 'down' } & Record<string, unknown>
>;

const HOUR_MS = 3_600_000;
const DEFAULTS = { maxPurgeLagMs: HOUR_MS, maxInFlightMs: HOUR_MS / 6 };

/**
 * For `HealthCheckService.check([() => idempotency.isHealthy('idempotency')])` of @nestjs/terminus: whether keys can be
 * claimed here, and whether anything stays behind.
 */
@Injectable()
export class IdempotencyHealthIndicator {
  /** @internal */
  constructor(private readonly runtime: IdempotencyRuntime) {}

  /** Down where the store is out of reach, takes no writes, has not this version's tables, or a limit is passed. */
  async isHealthy<Key extends string>(
    key: Key,
    options: IdempotencyHealthOptions = {},
  ): Promise<IdempotencyHealth<Key>> {
    const { maxPurgeLagMs, maxInFlightMs } = { ...DEFAULTS, ...options };
    const problems: string[] = [];
    const { count: inFlight, oldestMs } = this.runtime.claims.inFlight;
    const details: Record<string, unknown> = { inFlight, oldestInFlightMs: Math.round(oldestMs) };
    if (oldestMs > maxInFlightMs) {
      problems.push(`a request is under way for more than ${maxInFlightMs} ms`);
    }
    try {
      const pulse = await this.runtime.takePulse();
      Object.assign(details, pulse, { purgeLagMs: Math.round(pulse.purgeLagMs) });
      if (!pulse.writable) {
        problems.push('the server takes no writes');
      }
      if (pulse.purgeLagMs > maxPurgeLagMs) {
        problems.push(`the purge is more than ${maxPurgeLagMs} ms behind`);
      }
      if (!(await this.runtime.isSchemaCurrent())) {
        problems.push('the tables are not of this version: run the migrations');
      }
    } catch {
      problems.push('the store is out of reach, or its tables are'); // why is no matter of who may ask for health
    }
    const status = problems.length === 0 ? 'up' : 'down';
    return { [key]: { status, ...details, ...(status === 'up' ? {} : { problems }) } } as IdempotencyHealth<Key>;
  }
}

/** Provides {@link IdempotencyHealthIndicator}. Import it beside `IdempotencyModule`. */
@Module({ providers: [IdempotencyHealthIndicator], exports: [IdempotencyHealthIndicator] })
export class IdempotencyHealthModule {}
