import { Readable } from 'node:stream';
import { Body, Controller, Delete, HttpCode, Patch, Post, Put, StreamableFile, UseFilters } from '@nestjs/common';
import { IdempotencyContext, Idempotent } from '../../../src/index.js';
import { type AnyRequest, CatchAll, HouseStyle, requestOf, Work } from './house.js';

@Controller()
export class Orders {
  constructor(private readonly work: Work) {}

  @Post(['orders', 'orders/:id', 'elsewhere'])
  @Idempotent()
  create(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Put('orders')
  @Idempotent()
  put(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Patch('orders')
  @Idempotent()
  patch(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Delete('orders')
  @Idempotent()
  remove(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('swallowing')
  @Idempotent()
  swallow(@Body() body: AnyRequest['body']) {
    return this.work.swallow(body.label);
  }

  @Post('endless')
  @Idempotent({ timeoutMs: 50 })
  endless() {
    return new Promise(() => undefined);
  }

  @Post('styled')
  @UseFilters(HouseStyle)
  @Idempotent()
  styled(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('caught')
  @UseFilters(CatchAll)
  @Idempotent()
  caught(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('optional')
  @Idempotent({ required: false })
  async optional(@Body() body: AnyRequest['body'], @IdempotencyContext() context?: IdempotencyContext) {
    return { ...(await this.work.do(body.label)), key: context?.key ?? null };
  }

  @Post('renamed')
  @Idempotent({ header: 'X-Request-ID' })
  renamed(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('from-body')
  @Idempotent({ key: (context) => requestOf(context).body.event?.id as string })
  fromBody(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('from-body-optional')
  @Idempotent({ key: (context) => requestOf(context).body.event?.id as string, required: false })
  fromBodyOptional(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  /** Deliveries of one event differ in time and signature. */
  @Post('webhook')
  @Idempotent({
    key: (context) => Promise.resolve(requestOf(context).headers['webhook-id']),
    fingerprint: (context) => requestOf(context).body.label,
  })
  webhook(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('patterned')
  @Idempotent({ keyPattern: /order|order_[a-z]+/ })
  patterned(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('by-fingerprint')
  @Idempotent({ fingerprint: (context) => requestOf(context).body.label })
  byFingerprint(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('without-fingerprint')
  @Idempotent({ fingerprint: () => undefined })
  withoutFingerprint(@Body() body: AnyRequest['body']) {
    return this.work.do(body.label);
  }

  @Post('big-json')
  @Idempotent({ maxBodyBytes: 1000 })
  async bigJson(@Body() body: AnyRequest['body']) {
    await this.work.do(body.label);
    return { big: 'x'.repeat(5000) };
  }

  @Post('big-stream')
  @HttpCode(202)
  @Idempotent({ maxBodyBytes: 1000 })
  async bigStream(@Body() body: AnyRequest['body']) {
    await this.work.do(body.label);
    return new StreamableFile(Readable.from(BIG_STREAM.map((piece) => Buffer.from(piece))));
  }

  @Post('just-not-big')
  @Idempotent({ maxBodyBytes: 1000 })
  async justNotBig(@Body() body: AnyRequest['body']) {
    await this.work.do(body.label);
    return 'x'.repeat(1000);
  }
}

export const BIG_STREAM = Array.from({ length: 500 }, (_, index) => `${index}: ${'y'.repeat(1000)}\n`);
