import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setTimeout as delay } from 'node:timers/promises';
import { Body, Controller, Get, Header, Post, Query } from '@nestjs/common';
import { CreatePaymentDto, TroubleDto } from '../payments/payments.dto.js';
import { PaymentsService } from '../payments/payments.service.js';

/** A page that shows in a browser what the library does, and what happens without it. */
@Controller()
export class CheckoutController {
  private client: Promise<string> | undefined;

  constructor(private readonly payments: PaymentsService) {}

  @Get()
  @Header('Content-Type', 'text/html; charset=utf-8')
  page(): string {
    return file('checkout.html');
  }

  @Get('checkout.css')
  @Header('Content-Type', 'text/css; charset=utf-8')
  style(): string {
    return file('checkout.css');
  }

  @Get('checkout.js')
  @Header('Content-Type', 'text/javascript; charset=utf-8')
  script(): string {
    return file('checkout.js');
  }

  /** `nestjs-idempotency/client`, as it is published for browsers. */
  @Get('client.js')
  @Header('Content-Type', 'text/javascript; charset=utf-8')
  clientScript(): Promise<string> {
    return (this.client ??= bundleClient());
  }

  /** What many applications have: the same payment, but for `@Idempotent()`. */
  @Post('unprotected-payments')
  async pay(@Body() body: CreatePaymentDto, @Query() trouble: TroubleDto) {
    const { id } = await this.payments.create(body);
    await delay(trouble.delay_ms ?? 0);
    return { payment_id: id };
  }
}

function file(name: string): string {
  return readFileSync(new URL(name, import.meta.url), 'utf8');
}

async function bundleClient(): Promise<string> {
  const { build } = await import('esbuild');
  // Of what runs: the sources, or what the tests have compiled of them.
  const entry = ['ts', 'js'].map((end) => fileURLToPath(new URL(`../../../src/client/index.${end}`, import.meta.url)));
  const { outputFiles } = await build({
    entryPoints: [entry.find((path) => existsSync(path))!],
    bundle: true,
    write: false,
    format: 'esm',
  });
  return outputFiles[0]!.text;
}
