import { Controller, Post, Query } from '@nestjs/common';
import { InjectDataSource, InjectRepository } from '@nestjs/typeorm';
import { DataSource, type Repository } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { Script } from './shop.js';

/** Ordinary code that waits for itself in a request, since there is one connection; the limit ends it. */
@Controller()
export class Hanging {
  constructor(
    private readonly script: Script,
    @InjectDataSource() private readonly dataSource: DataSource,
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
  ) {}

  private async begin() {
    const runner = this.dataSource.createQueryRunner();
    await runner.connect();
    await runner.startTransaction();
    return runner;
  }

  @Post('hang')
  @Idempotent({ timeoutMs: 300 })
  async hang(@Query('how') how: string) {
    await this.effects.save({ label: how });
    if (!this.script.fails) return { how };
    switch (how) {
      case 'never ended': {
        const runner = await this.begin();
        await runner.manager.save(Effect, { label: how });
        return { how };
      }
      case 'ended in the order of their begin': {
        const [first, second] = [await this.begin(), this.dataSource.createQueryRunner()];
        await first.manager.save(Effect, { label: how });
        await second.startTransaction();
        await first.commitTransaction();
        await second.commitTransaction();
        return { how };
      }
      case 'begun by a helper, and unused': {
        const runner = await this.begin();
        await this.effects.save({ label: how });
        await runner.commitTransaction();
        return { how };
      }
      case 'awaited from within': {
        const go = deferred();
        const around = go.promise.then(() => this.effects.save({ label: how }));
        await this.dataSource.transaction(async () => {
          go.resolve();
          await around;
        });
        return { how };
      }
    }
    throw new Error(`no such pattern: ${how}`);
  }
}
