import { setTimeout as delay } from 'node:timers/promises';
import { Body, Controller, Headers, HttpException, Post, Res } from '@nestjs/common';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import { ROUTE_LIMITS } from '../routes.js';
import { LedgerService, PaymentsService } from './services.js';

/** What the responses of Express and Fastify have in common, as far as it is used here. */
interface Response {
  header(name: string, value: string): unknown;
  status(code: number): { send(body: unknown): unknown };
}

const PASS = { passthrough: true } as const;

interface Payment {
  amount: number;
  /** Attempts up to this number fail: the client counts them, so a run can be repeated from its seed. */
  failures: number;
}

/** One route for each way in which a handler can use the library, and for each way in which it can misbehave. */
@Controller('pay')
export class PaymentsController {
  constructor(
    private readonly payments: PaymentsService,
    private readonly ledger: LedgerService,
  ) {}

  @Post('plain')
  @Idempotent()
  async plain(@Body() body: Payment, @IdempotencyContext() { key }: IdempotencyContext, @Res(PASS) res: Response) {
    return receipt(res, await this.payments.pay(key, body.amount));
  }

  @Post('slow')
  @Idempotent({ timeoutMs: ROUTE_LIMITS.timeoutMs })
  async slow(@Body() body: Payment, @IdempotencyContext() { key }: IdempotencyContext, @Res(PASS) res: Response) {
    await delay(5);
    const result = await this.payments.pay(key, body.amount);
    await this.ledger.rest(10);
    return receipt(res, result);
  }

  /** An error that is stored: its writes are not. */
  @Post('declined')
  @Idempotent({ storeErrors: (status) => status === 402 })
  async declined(@Body() body: Payment, @IdempotencyContext() { key }: IdempotencyContext, @Res(PASS) res: Response) {
    const { nonce } = await this.payments.pay(key, body.amount);
    res.header('X-Receipt', nonce);
    throw new HttpException({ reason: 'insufficient funds', nonce }, 402);
  }

  /** A route that could store errors, and succeeds; it resets its session on the way. */
  @Post('approved')
  @Idempotent({ storeErrors: (status) => status === 402, inFlight: { waitMs: 100 } })
  async approved(@Body() body: Payment, @IdempotencyContext() { key }: IdempotencyContext, @Res(PASS) res: Response) {
    await this.ledger.resetSession();
    return receipt(res, await this.payments.pay(key, body.amount));
  }

  /** Fails behind its writes, with a lock of its session in hand; what it started goes on writing after the rollback. */
  @Post('failing')
  @Idempotent()
  async failing(
    @Body() body: Payment,
    @Headers('x-attempt') attempt: string,
    @IdempotencyContext() { key }: IdempotencyContext,
    @Res(PASS) res: Response,
  ) {
    const result = await this.payments.pay(key, body.amount);
    if (Number(attempt) <= body.failures) {
      await this.ledger.lockSession(result.nonce);
      void delay(20).then(() => this.payments.pay(key, body.amount).catch(() => undefined));
      throw new Error('the handler fails behind its writes');
    }
    return receipt(res, result);
  }

  /** Overruns its time limit, then writes. */
  @Post('overdue')
  @Idempotent({ timeoutMs: ROUTE_LIMITS.overdueTimeoutMs })
  async overdue(
    @Body() body: Payment,
    @Headers('x-attempt') attempt: string,
    @IdempotencyContext() { key }: IdempotencyContext,
    @Res(PASS) res: Response,
  ) {
    if (Number(attempt) <= body.failures) {
      await delay(ROUTE_LIMITS.overdueTimeoutMs + 50);
    }
    return receipt(res, await this.payments.pay(key, body.amount));
  }

  @Post('serializable')
  @Idempotent({ isolation: 'SERIALIZABLE' })
  async serializable(
    @Body() body: Payment,
    @IdempotencyContext() { key }: IdempotencyContext,
    @Res(PASS) res: Response,
  ) {
    const result = await this.payments.pay(key, body.amount);
    await this.ledger.deposit(`account-${body.amount % ROUTE_LIMITS.accounts}`, body.amount);
    return receipt(res, result);
  }

  /** Too large to keep: its effect counts, its response cannot be replayed. */
  @Post('large')
  @Idempotent({ maxBodyBytes: ROUTE_LIMITS.maxBodyBytes })
  async large(@Body() body: Payment, @IdempotencyContext() { key }: IdempotencyContext, @Res(PASS) res: Response) {
    const result = await this.payments.pay(key, body.amount);
    return receipt(res, { ...result, padding: 'x'.repeat(ROUTE_LIMITS.maxBodyBytes) });
  }

  /** Answers before it is done, and with a 500 of its own on its first attempts. */
  @Post('raw')
  @Idempotent()
  async raw(
    @Body() body: Payment,
    @Headers('x-attempt') attempt: string,
    @IdempotencyContext() { key }: IdempotencyContext,
    @Res() res: Response,
  ) {
    const result = receipt(res, await this.payments.pay(key, body.amount));
    res.status(Number(attempt) <= body.failures ? 500 : 201).send(result);
    await this.ledger.rest(5);
  }

  /** Swallows an SQL error on its first attempts: PostgreSQL then answers COMMIT with ROLLBACK. */
  @Post('swallowed')
  @Idempotent()
  async swallowed(
    @Body() body: Payment,
    @Headers('x-attempt') attempt: string,
    @IdempotencyContext() { key }: IdempotencyContext,
    @Res(PASS) res: Response,
  ) {
    const result = await this.payments.pay(key, body.amount);
    if (Number(attempt) <= body.failures) {
      await this.ledger.failQuietly();
    }
    return receipt(res, result);
  }

  /** A key that lives so short that it expires between, and during, its retries. */
  @Post('expiring')
  @Idempotent({ ttlMs: ROUTE_LIMITS.shortTtlMs })
  async expiring(@Body() body: Payment, @IdempotencyContext() { key }: IdempotencyContext, @Res(PASS) res: Response) {
    const result = await this.payments.pay(key, body.amount);
    await this.ledger.rest(5);
    return receipt(res, result);
  }
}

function receipt<T extends { nonce: string }>(res: Response, result: T): T {
  res.header('X-Receipt', result.nonce);
  return result;
}
