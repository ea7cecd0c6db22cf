import { Body, Controller, Post } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { IdempotencyContext, IdempotencyService, Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { type Labelled, Ledger, note, stage } from './stage.js';

@Controller()
export class Contexts {
  constructor(
    private readonly ledger: Ledger,
    private readonly idempotency: IdempotencyService,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

  @Post('after-commit')
  @Idempotent()
  async afterCommit(@Body() { label }: Labelled, @IdempotencyContext() context: IdempotencyContext) {
    context.afterCommit(() => {
      throw new Error('a callback threw');
    });
    context.afterCommit(async () => {
      const seen = await this.dataSource.query('select 1 from idempotency_keys where key = $1', [label]);
      note(label, `committed: ${(seen as unknown[]).length}`);
    });
    const written = await this.ledger.write(label);
    if (stage.broken) {
      throw new Error('rolled back');
    }
    return written;
  }

  @Post('context')
  @Idempotent({ required: false, scope: () => 'a scope' })
  async context(@Body() { label }: Labelled, @IdempotencyContext() context: IdempotencyContext<string | undefined>) {
    await context.manager.save(Effect, { label });
    if (stage.broken) {
      throw new Error('rolled back');
    }
    return { key: context.key ?? null, scope: context.scope, attempt: context.attempt };
  }

  @Post('outside')
  @Idempotent()
  async outside(@Body() { label }: Labelled) {
    await this.ledger.write(label);
    await this.idempotency.outsideTransaction(() => this.ledger.write(`${label}: audit`));
    if (stage.broken) {
      throw new Error('rolled back');
    }
    return { label };
  }
}
