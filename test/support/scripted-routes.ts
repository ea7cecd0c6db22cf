import { Controller, Param, Post } from '@nestjs/common';
import type { DataSource, EntityManager } from 'typeorm';
import { InjectDataSource } from '@nestjs/typeorm';
import { Idempotent, IdempotencyContext } from '../../src/index.js';

/** What a handler does; `manager` is one of the transaction it runs in. */
export type Script = (dataSource: DataSource, manager: EntityManager) => unknown;

/** Handlers by their name in the path, for tests of one kind of work in each place where the library runs it. */
const scripts = new Map<string, Script>();

/** Gives the script a name of its own and answers that. */
export function script(work: Script): string {
  const name = `script-${scripts.size}`;
  scripts.set(name, work);
  return name;
}

@Controller()
export class ScriptedController {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('transaction/:script')
  @Idempotent({ timeoutMs: 5_000 })
  transaction(@Param('script') name: string, @IdempotencyContext() { manager }: IdempotencyContext): unknown {
    return scripts.get(name)!(this.dataSource, manager);
  }

  /** The same, and its errors are recorded without its writes. */
  @Post('storing/:script')
  @Idempotent({ timeoutMs: 5_000, storeErrors: () => true })
  storing(@Param('script') name: string, @IdempotencyContext() { manager }: IdempotencyContext): unknown {
    return scripts.get(name)!(this.dataSource, manager);
  }

  /** The same in a step of lease mode. */
  @Post('step/:script')
  @Idempotent({ mode: 'lease', timeoutMs: 5_000 })
  step(@Param('script') name: string, @IdempotencyContext() { transaction }: IdempotencyContext): unknown {
    return transaction('work', async (manager) => scripts.get(name)!(this.dataSource, manager));
  }

  @Post('impatient/:script')
  @Idempotent({ timeoutMs: 500 })
  impatient(@Param('script') name: string, @IdempotencyContext() { manager }: IdempotencyContext): unknown {
    return scripts.get(name)!(this.dataSource, manager);
  }

  /** In lease mode, outside of any step: on ordinary connections. */
  @Post('lease/:script')
  @Idempotent({ mode: 'lease', timeoutMs: 5_000 })
  lease(@Param('script') name: string): unknown {
    return scripts.get(name)!(this.dataSource, this.dataSource.manager);
  }

  @Post('impatient-step/:script')
  @Idempotent({ mode: 'lease', timeoutMs: 500 })
  impatientStep(@Param('script') name: string, @IdempotencyContext() { transaction }: IdempotencyContext): unknown {
    return transaction('work', async (manager) => scripts.get(name)!(this.dataSource, manager));
  }

  /** As it would be without the library. */
  @Post('plain/:script')
  plain(@Param('script') name: string): unknown {
    return scripts.get(name)!(this.dataSource, this.dataSource.manager);
  }
}

/** The places in which a handler's work runs within a transaction of the library. */
export const PLACES = ['transaction', 'step'] as const;
