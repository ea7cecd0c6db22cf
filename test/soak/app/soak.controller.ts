import { randomBytes, randomUUID } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { Body, Controller, Get, Headers, HttpException, Post, Res, StreamableFile } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Repository } from 'typeorm';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import { Account } from '../../faults/app/entities.js';

interface Payment {
  account: string;
  text?: string;
}

/** What the responses of Express and Fastify have in common, as far as it is used here. */
interface Response {
  hijack?(): void;
  raw?: ServerResponse;
}

/** Long enough for a duplicate to come meanwhile. */
const SLOW_MS = 40;

/** Small, so that an overdue handler does not hold the soak up, and far from what such a handler takes. */
const TIME_LIMIT_MS = 100;
const OVERDUE_MS = 2_000;

/** One route for each thing that traffic is made of. `X-Attempt: 1` is what fails where something is to fail. */
@Controller('soak')
export class SoakController {
  constructor(@InjectRepository(Account) private readonly accounts: Repository<Account>) {}

  /** Traffic that is none of the library's business. */
  @Get('accounts')
  count() {
    return this.accounts.count();
  }

  @Post('plain')
  @Idempotent()
  plain(@Body() { account }: Payment) {
    return this.pay(account);
  }

  @Post('slow')
  @Idempotent()
  async slow(@Body() { account }: Payment) {
    await delay(SLOW_MS);
    return this.pay(account);
  }

  @Post('patient')
  @Idempotent({ inFlight: { waitMs: 2_000 } })
  async patient(@Body() { account }: Payment) {
    await delay(SLOW_MS);
    return this.pay(account);
  }

  @Post('failing')
  @Idempotent()
  async failing(@Body() { account }: Payment, @Headers('x-attempt') attempt: string) {
    const paid = await this.pay(account);
    if (attempt === '1') throw new Error('behind its write');
    return paid;
  }

  @Post('swallowed')
  @Idempotent()
  async swallowed(@Body() { account }: Payment, @Headers('x-attempt') attempt: string) {
    const paid = await this.pay(account);
    if (attempt === '1') await this.accounts.query('select 1 / 0').catch(() => undefined);
    return paid;
  }

  @Post('overdue')
  @Idempotent({ timeoutMs: TIME_LIMIT_MS })
  async overdue(@Body() { account }: Payment, @Headers('x-attempt') attempt: string) {
    const paid = await this.pay(account);
    if (attempt === '1') await delay(OVERDUE_MS);
    return paid;
  }

  @Post('declined')
  @Idempotent({ storeErrors: (status) => status === 402 })
  async declined(@Body() { account }: Payment) {
    const { nonce } = await this.pay(account);
    throw new HttpException({ nonce, reason: 'insufficient funds' }, 402);
  }

  /** Reads before it writes, so that two at once on an account cannot both commit. */
  @Post('serializable')
  @Idempotent({ isolation: 'SERIALIZABLE', retries: 10 })
  async serializable(@Body() { account }: Payment) {
    const { balance } = await this.accounts.findOneByOrFail({ id: account });
    await this.accounts.update({ id: account }, { balance: balance + 1 });
    return { nonce: randomUUID() };
  }

  @Post('echo')
  @Idempotent()
  async echo(@Body() { account, text }: Payment) {
    return { ...(await this.pay(account)), text };
  }

  @Post('stream')
  @Idempotent()
  async stream(@Body() { account }: Payment) {
    await this.pay(account);
    return new StreamableFile(Readable.from(pieces(8)));
  }

  /** More than is kept. */
  @Post('large')
  @Idempotent()
  async large(@Body() { account }: Payment) {
    await this.pay(account);
    return new StreamableFile(Readable.from(pieces(160)));
  }

  @Post('raw')
  @Idempotent()
  async raw(@Body() { account }: Payment, @Res() response: Response) {
    const { nonce } = await this.pay(account);
    response.hijack?.();
    const raw = response.raw ?? (response as unknown as ServerResponse);
    raw.writeHead(202, { 'Content-Type': 'text/plain' });
    raw.write('taken: ');
    raw.end(nonce);
  }

  @Post('context')
  @Idempotent()
  async context(@Body() { account }: Payment, @IdempotencyContext() { key, afterCommit }: IdempotencyContext) {
    afterCommit(() => key);
    return this.pay(account);
  }

  private async pay(account: string): Promise<{ nonce: string }> {
    await this.accounts.increment({ id: account }, 'balance', 1);
    return { nonce: randomUUID() };
  }
}

/** Each time other bytes, 8 KiB a piece, which PostgreSQL cannot compress. */
function* pieces(count: number): Generator<Buffer> {
  for (let piece = 0; piece < count; piece++) yield randomBytes(8_192);
}
