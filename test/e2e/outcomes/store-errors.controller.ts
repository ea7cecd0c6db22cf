import { Body, ConflictException, Controller, HttpException, Post, UseInterceptors } from '@nestjs/common';
import { retry } from 'rxjs';
import { IdempotencyContext, Idempotent } from '../../../src/index.js';
import { type Labelled, Ledger, note, outer, stage } from './stage.js';

@Controller()
export class StoredErrors {
  constructor(private readonly ledger: Ledger) {}

  @Post('store-errors')
  @Idempotent({ storeErrors: (status) => status === 402 || status >= 500 })
  async storeErrors(
    @Body() { label, status }: Labelled & { status: number },
    @IdempotencyContext() context: IdempotencyContext,
  ) {
    context.afterCommit(() => note(label, 'committed'));
    await this.ledger.write(label);
    throw new HttpException({ reason: 'declined', at: process.hrtime.bigint().toString() }, status);
  }

  /** With `storeErrors` its key stays claimed until it is answered: the second run finds the first in flight. */
  @Post('outer-retries-stored-errors')
  @Idempotent({ storeErrors: () => true })
  @UseInterceptors(outer((handled) => handled.pipe(retry(1))))
  async outerRetriesStoredErrors(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    if (stage.broken) {
      throw new ConflictException('of its own');
    }
    return { label };
  }
}
