import { Body, Controller, Post } from '@nestjs/common';
import { IdempotencyService } from '../../../src/index.js';
import { operatorReceipt } from './protocol.js';

/** What a person does about operations whose outcome is unknown. */
@Controller('operator')
export class OperatorController {
  constructor(private readonly idempotency: IdempotencyService) {}

  @Post('release')
  release(@Body() { key }: { key: string }): Promise<boolean> {
    return this.idempotency.release(key);
  }

  @Post('resolve')
  resolve(@Body() { key }: { key: string }): Promise<boolean> {
    const receipt = operatorReceipt(key);
    return this.idempotency.resolve(key, { status: 201, headers: { 'X-Receipt': receipt }, body: { receipt } });
  }
}
