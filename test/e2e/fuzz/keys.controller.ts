import { Controller, Post } from '@nestjs/common';
import { IdempotencyContext, Idempotent } from '../../../src/index.js';

export const executions = new Map<string, number>();

@Controller()
export class KeysController {
  @Post('keys')
  @Idempotent()
  answer(@IdempotencyContext() { key }: IdempotencyContext): { hex: string } {
    executions.set(key, (executions.get(key) ?? 0) + 1);
    return { hex: Buffer.from(key).toString('hex') }; // in hexadecimal: only the echoed header may show it
  }
}
