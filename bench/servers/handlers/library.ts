import { Body, Controller, Inject, Post } from '@nestjs/common';
import { InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import { DataSource, Repository } from 'typeorm';
import { IdempotencyModule, IdempotencyService, Idempotent } from '../../../src/index.js';
import { Effect } from '../effect.entity.js';
import type { VariantApp } from '../variant-app.js';

let letGo: (() => void)[] = [];

@Controller()
class OperationsController {
  constructor(
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
    @Inject(DataSource) private readonly dataSource: DataSource,
  ) {}

  @Post('operations')
  @Idempotent()
  async create(@Body() body: unknown): Promise<unknown> {
    await this.effects.insert({ label: 'x' });
    return body;
  }

  /** Runs until it is told to end. */
  @Post('held')
  @Idempotent({ timeoutMs: 30 * 60_000 })
  async held(@Body() body: unknown): Promise<unknown> {
    await new Promise<void>((resolve) => letGo.push(resolve));
    return body;
  }

  @Post('undecorated/plain')
  plain(@Body() body: unknown): unknown {
    return body;
  }

  @Post('undecorated/transaction')
  async transaction(@Body() body: unknown): Promise<unknown> {
    await this.dataSource.transaction((manager) => manager.insert(Effect, { label: 'x' }));
    return body;
  }
}

export const app: VariantApp = {
  imports: [TypeOrmModule.forFeature([Effect]), IdempotencyModule.forRoot({ scope: () => '', purge: false })],
  controllers: [OperationsController],
  purge: (context) => context.get(IdempotencyService).purge(),
  release: () => {
    for (const resolve of letGo) {
      resolve();
    }
    letGo = [];
  },
};
