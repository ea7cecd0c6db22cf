import { setTimeout as delay } from 'node:timers/promises';
import { Body, Controller, Headers, HttpException, Post, Res } from '@nestjs/common';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import { LEASE_LIMITS } from '../routes.js';
import { Provider } from './provider.js';
import { BookingsService } from './services.js';

interface Response {
  header(name: string, value: string): unknown;
}

interface Transfer {
  amount: number;
  /** Attempts up to this number fail: the client counts them. */
  failures: number;
}

const { leaseMs, timeoutMs, shortTtlMs } = LEASE_LIMITS;
const LEASE = { mode: 'lease', leaseMs, timeoutMs } as const;
const PASS = { passthrough: true } as const;

/** Handlers of three steps: the provider is asked to reserve, a row is written, the provider is asked to charge. */
@Controller('lease')
export class LeasesController {
  constructor(
    private readonly provider: Provider,
    private readonly bookings: BookingsService,
  ) {}

  @Post('transfer')
  @Idempotent(LEASE)
  transfer(@Body() body: Transfer, @IdempotencyContext() context: IdempotencyContext, @Res(PASS) res: Response) {
    return this.carryOut(context, body, res, { signal: context.signal });
  }

  /** Does not listen when it is told that its lease is lost, and rests for longer than one before and behind its last step. */
  @Post('stubborn')
  @Idempotent(LEASE)
  stubborn(@Body() body: Transfer, @IdempotencyContext() context: IdempotencyContext, @Res(PASS) res: Response) {
    return this.carryOut(context, body, res, { around: () => delay(body.amount % (1.5 * leaseMs)) });
  }

  /** Fails behind its second step on its first attempts: what has finished is kept. */
  @Post('stumbling')
  @Idempotent(LEASE)
  stumbling(
    @Body() body: Transfer,
    @Headers('x-attempt') attempt: string,
    @IdempotencyContext() context: IdempotencyContext,
    @Res(PASS) res: Response,
  ) {
    const around = (): void => {
      if (Number(attempt) <= body.failures) {
        throw new Error('the handler fails between its steps');
      }
    };
    return this.carryOut(context, body, res, { around });
  }

  /** Its last step ends with an error that is remembered, and stored. */
  @Post('refused')
  @Idempotent({ ...LEASE, storeErrors: (status) => status === 402 })
  async refused(@IdempotencyContext() context: IdempotencyContext, @Res(PASS) res: Response): Promise<never> {
    const { id } = await context.step('reserve', () => this.provider.call(context, 'reserve', context.signal));
    res.header('X-Receipt', id);
    return context.step('charge', async () => {
      const charged = await this.provider.call(context, 'charge', context.signal);
      throw new HttpException({ reason: 'insufficient funds', reserved: id, charged: charged.id }, 402);
    });
  }

  /** Holds its key's row while its transaction runs, for longer than its lease. */
  @Post('isolated')
  @Idempotent({ ...LEASE, isolation: 'SERIALIZABLE', retries: 5 })
  isolated(@Body() body: Transfer, @IdempotencyContext() context: IdempotencyContext, @Res(PASS) res: Response) {
    const restMs = body.amount % 2 === 0 ? 5 : 1.5 * leaseMs;
    const book = () => this.bookings.bookApart(context.key, body.amount, restMs);
    return this.carryOut(context, body, res, { signal: context.signal, book });
  }

  /** Must not be repeated before a person has looked into it. */
  @Post('guarded')
  @Idempotent({ ...LEASE, onInterrupted: 'fail' })
  guarded(@Body() body: Transfer, @IdempotencyContext() context: IdempotencyContext, @Res(PASS) res: Response) {
    return this.carryOut(context, body, res, { signal: context.signal });
  }

  /** A key that lives so short that it expires between its retries. */
  @Post('lapsing')
  @Idempotent({ ...LEASE, ttlMs: shortTtlMs })
  lapsing(@Body() body: Transfer, @IdempotencyContext() context: IdempotencyContext, @Res(PASS) res: Response) {
    return this.carryOut(context, body, res, { signal: context.signal });
  }

  private async carryOut(
    context: IdempotencyContext,
    { amount }: Transfer,
    res: Response,
    {
      signal = null,
      around = () => undefined,
      book = () => this.bookings.book(context.key, amount),
    }: {
      signal?: AbortSignal | null;
      /** Runs before and behind the last step. */
      around?: () => unknown;
      book?: () => Promise<{ nonce: string; amount: number }>;
    },
  ) {
    const reserved = await context.step('reserve', () => this.provider.call(context, 'reserve', signal));
    const booking = await context.transaction('book', book);
    await around();
    const charged = await context.step('charge', () => this.provider.call(context, 'charge', signal));
    await around();
    res.header('X-Receipt', booking.nonce);
    return { ...booking, reserved: reserved.id, charged: charged.id, attempt: context.attempt };
  }
}
