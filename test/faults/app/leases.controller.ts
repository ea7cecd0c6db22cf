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

  /** Its last step goes on for longer than the time limit of the request and a lease behind it. */
  @Post('outliving')
  @Idempotent({ ...LEASE, timeoutMs: leaseMs / 2 })
  async outliving(@Body() body: Transfer, @IdempotencyContext() context: IdempotencyContext, @Res(PASS) res: Response) {
    return this.carryOut(context, body, res, { within: () => delay(2 * leaseMs) });
  }

  /** Two chains of steps side by side: which comes first is another at each attempt. */
  @Post('parallel')
  @Idempotent(LEASE)
  async parallel(
    @Body() { amount, failures }: Transfer,
    @Headers('x-attempt') attempt: string,
    @IdempotencyContext() context: IdempotencyContext,
    @Res(PASS) res: Response,
  ) {
    const { signal } = context;
    const pace = (chain: number): Promise<void> => delay(((amount + context.attempt) * (chain + 1) * 13) % 40);
    const chains = await Promise.all([
      pace(0).then(() => context.step('reserve', () => this.provider.call(context, 'reserve', signal))),
      pace(1).then(async () => {
        const booking = await context.transaction('book', () => this.bookings.book(context.key, amount));
        await pace(2);
        return [booking, await context.step('charge', () => this.provider.call(context, 'charge', signal))] as const;
      }),
    ]);
    if (Number(attempt) <= failures) {
      throw new Error('the handler fails behind its chains');
    }
    const [reserved, [booking, charged]] = chains;
    res.header('X-Receipt', booking.nonce);
    return { ...booking, reserved: reserved.id, charged: charged.id, attempt: context.attempt };
  }

  /** Goes another way where the first has failed, and must go it again. */
  @Post('fallback')
  @Idempotent(LEASE)
  async fallback(
    @Body() body: Transfer,
    @Headers('x-attempt') attempt: string,
    @IdempotencyContext() context: IdempotencyContext,
    @Res(PASS) res: Response,
  ) {
    const { signal } = context;
    await context
      .step('quote', () => this.provider.call(context, 'quote', signal))
      .catch((error: unknown) => {
        if (!(error instanceof HttpException) || error.getStatus() !== 502) {
          throw error; // not the provider's
        }
        return context.step('quote elsewhere', () => this.provider.call(context, 'quote elsewhere', signal));
      });
    const around = (): void => {
      if (Number(attempt) <= body.failures) {
        throw new Error('the handler fails between its steps');
      }
    };
    return this.carryOut(context, body, res, { signal, around });
  }

  /** Its provider knows no keys, and it may fail beside the step that asks it. */
  @Post('unkeyed')
  @Idempotent(LEASE)
  async unkeyed(
    @Body() { amount, failures }: Transfer,
    @Headers('x-attempt') attempt: string,
    @IdempotencyContext() context: IdempotencyContext,
    @Res(PASS) res: Response,
  ) {
    const besides = async (): Promise<void> => {
      await delay(amount % 40);
      if (Number(attempt) <= failures) {
        throw new Error('the handler fails beside its step');
      }
    };
    const [notified] = await Promise.all([
      context.step('notify', () => this.provider.callWithoutKey(context, 'notify')),
      besides(),
    ]);
    const booking = await context.transaction('book', () => this.bookings.book(context.key, amount));
    res.header('X-Receipt', booking.nonce);
    return { ...booking, notified: notified.id, attempt: context.attempt };
  }

  /** Its last step runs while the whole pool is busy, for longer than its lease. */
  @Post('starved')
  @Idempotent(LEASE)
  starved(@Body() body: Transfer, @IdempotencyContext() context: IdempotencyContext, @Res(PASS) res: Response) {
    return this.carryOut(context, body, res, { within: () => this.bookings.starve(1.5 * leaseMs) });
  }

  private async carryOut(
    context: IdempotencyContext,
    { amount }: Transfer,
    res: Response,
    {
      signal = null,
      around = () => undefined,
      within = () => undefined,
      book = () => this.bookings.book(context.key, amount),
    }: {
      signal?: AbortSignal | null;
      /** Runs before and behind the last step. */
      around?: () => unknown;
      /** Runs inside of the last step. */
      within?: () => unknown;
      book?: () => Promise<{ nonce: string; amount: number }>;
    },
  ) {
    const reserved = await context.step('reserve', () => this.provider.call(context, 'reserve', signal));
    const booking = await context.transaction('book', book);
    await around();
    const charged = await context.step('charge', async () => {
      const receipt = await this.provider.call(context, 'charge', signal);
      await within();
      return receipt;
    });
    await around();
    res.header('X-Receipt', booking.nonce);
    return { ...booking, reserved: reserved.id, charged: charged.id, attempt: context.attempt };
  }
}
