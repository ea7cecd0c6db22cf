import { Body, Controller, Post } from '@nestjs/common';
import { Idempotent } from '../../../src/index.js';
import { gates, type Labelled, Ledger, stage } from './stage.js';

@Controller()
export class SlowFailing {
  constructor(private readonly ledger: Ledger) {}

  @Post('slow-failing')
  @Idempotent()
  async slowFailing(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    await gates.pass(label);
    if (stage.broken) {
      throw new Error('after all');
    }
    return { label };
  }
}
