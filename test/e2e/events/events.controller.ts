import {
  Body,
  type CallHandler,
  ConflictException,
  Controller,
  type ExecutionContext,
  type NestInterceptor,
  Param,
  Post,
  RequestTimeoutException,
  UseInterceptors,
} from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { throwError, timeout } from 'rxjs';
import type { DataSource } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';

export const SECRET = 'hunter2-of-the-caller';

/** What a handler waits for, and what tells that it does. */
export const gate = { entered: deferred(), opened: deferred() };

export function closeGate(): void {
  gate.entered = deferred();
  gate.opened = deferred();
}

/** Turns away from who is in a hurry. */
class HurryInterceptor implements NestInterceptor {
  intercept(context: ExecutionContext, next: CallHandler) {
    const { headers } = context.switchToHttp().getRequest<{ headers: Record<string, string> }>();
    const late = () => throwError(() => new RequestTimeoutException());
    return 'x-hurry' in headers ? next.handle().pipe(timeout({ first: 50, with: late })) : next.handle();
  }
}

@Controller('shops/:shop')
export class EventsController {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('payments')
  @Idempotent({ storeErrors: (status) => status === 409, maxBodyBytes: 1_000, retries: 1, timeoutMs: 5_000 })
  async pay(
    @Body() { what, size = 0 }: { what?: string; size?: number },
    @IdempotencyContext() { attempt }: IdempotencyContext,
  ): Promise<unknown> {
    await this.dataSource.getRepository(Effect).save({ label: 'paid' });
    switch (what) {
      case 'conflict':
        throw new ConflictException();
      case 'fail':
        throw new Error('failed as asked');
      case 'wait':
        gate.entered.resolve();
        await gate.opened.promise;
        break;
      case 'meet others':
        await this.dataSource.query(`do $$ begin raise exception 'met another' using errcode = '40001'; end $$`);
        break;
      case 'meet another':
        if (attempt === 1) throw Object.assign(new Error('as PostgreSQL says it'), { code: '40001' });
    }
    return { secret: SECRET, padding: 'x'.repeat(size) };
  }

  /** What is further out gives it up while it waits for the one before. */
  @Post('hurried')
  @Idempotent({ inFlight: { waitMs: 10_000 } })
  @UseInterceptors(HurryInterceptor)
  async hurried(): Promise<void> {
    gate.entered.resolve();
    await gate.opened.promise;
  }

  @Post('impatient')
  @Idempotent({ timeoutMs: 50 })
  async impatient(@IdempotencyContext() { signal }: IdempotencyContext): Promise<void> {
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
  }

  @Post('optional')
  @Idempotent({ required: false })
  optional(): object {
    return { ok: true };
  }

  @Post('lease')
  @Idempotent({ mode: 'lease', leaseMs: 6_000 })
  async lease(
    @Body() { what }: { what?: string },
    @IdempotencyContext() { step, attempt }: IdempotencyContext,
    @Param('shop') shop: string,
  ): Promise<unknown> {
    if (what === 'change' && attempt > 1) return step('charge anew', () => ({ secret: SECRET }));
    const charged = await step('charge', { key: shop }, () => ({ secret: SECRET }));
    if (what === 'change') throw new Error('failed as asked');
    if ((what === 'die' || what === 'go on') && attempt === 1) {
      gate.entered.resolve();
      await gate.opened.promise;
    }
    if (what === 'go on') await step('book', () => 'booked');
    return charged;
  }
}
