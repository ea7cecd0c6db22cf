import { AsyncLocalStorage } from 'node:async_hooks';
import { once } from 'node:events';
import {
  type CallHandler,
  Controller,
  type ExecutionContext,
  Injectable,
  type NestInterceptor,
  Post,
  Req,
  UseInterceptors,
} from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { catchError, concatMap, finalize, lastValueFrom, type Observable, of } from 'rxjs';
import type { DataSource, EntityManager, QueryRunner } from 'typeorm';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';

interface Carrier {
  manager?: EntityManager;
  runner?: QueryRunner;
}

const MANAGER = Symbol('manager');
const current = new AsyncLocalStorage<EntityManager>();

/** As many articles have it: the handler finds its manager in the request. */
@Injectable()
export class TransactionInterceptor implements NestInterceptor {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  async intercept(context: ExecutionContext, next: CallHandler): Promise<Observable<unknown>> {
    const request = context.switchToHttp().getRequest<Carrier>();
    const runner = this.dataSource.createQueryRunner();
    await runner.connect();
    await runner.startTransaction();
    Object.assign(request, { manager: runner.manager, runner });
    return next.handle().pipe(
      concatMap(async (value) => {
        await runner.commitTransaction();
        return value as unknown;
      }),
      catchError(async (error) => {
        await runner.rollbackTransaction();
        throw error;
      }),
      finalize(() => void runner.release()),
    );
  }
}

/** The same by statements. */
@Injectable()
export class SqlInterceptor implements NestInterceptor {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  async intercept(context: ExecutionContext, next: CallHandler): Promise<Observable<unknown>> {
    const runner = this.dataSource.createQueryRunner();
    await runner.query('begin');
    Object.assign(context.switchToHttp().getRequest<Carrier>(), { runner });
    return next.handle().pipe(
      concatMap(async (value) => {
        await runner.query('commit');
        return value as unknown;
      }),
      catchError(async (error) => {
        await runner.query('rollback');
        throw error;
      }),
      finalize(() => void runner.release()),
    );
  }
}

/** The same by a callback, whose manager goes by a symbol and by an AsyncLocalStorage. */
@Injectable()
export class CallbackInterceptor implements NestInterceptor {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  async intercept(context: ExecutionContext, next: CallHandler): Promise<Observable<unknown>> {
    const value: unknown = await this.dataSource.transaction((manager) => {
      Object.assign(context.switchToHttp().getRequest<object>(), { [MANAGER]: manager, manager });
      return current.run(manager, () => lastValueFrom(next.handle()));
    });
    return of(value);
  }
}

const save = (manager: EntityManager | undefined, label: string): Promise<unknown> => manager!.save(Effect, { label });

@Controller()
export class OuterController {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('around')
  @Idempotent()
  @UseInterceptors(TransactionInterceptor)
  async around(@Req() { manager }: Carrier) {
    await save(manager, 'around');
    return { saved: true };
  }

  @Post('around-by-callback')
  @Idempotent()
  @UseInterceptors(CallbackInterceptor)
  async byCallback() {
    await save(current.getStore(), 'around-by-callback');
    return { saved: true };
  }

  @Post('around-a-reader')
  @Idempotent()
  @UseInterceptors(TransactionInterceptor)
  async stream(@Req() { runner }: Carrier) {
    const rows = await runner!.stream('select 1');
    await once(rows.resume(), 'end');
    return { read: true };
  }

  @Post('around-by-sql')
  @Idempotent()
  @UseInterceptors(SqlInterceptor)
  async bySql(@Req() { runner }: Carrier) {
    await runner!.query('savepoint one');
    await runner!.query(`insert into effects (label) values ('around-by-sql')`);
    return { saved: true };
  }

  @Post('unused-by-sql')
  @Idempotent()
  @UseInterceptors(SqlInterceptor)
  async unusedBySql() {
    await save(this.dataSource.manager, 'unused-by-sql');
    return { saved: true };
  }

  @Post('around-a-step')
  @Idempotent({ mode: 'lease' })
  @UseInterceptors(TransactionInterceptor)
  async step(@Req() { manager }: Carrier, @IdempotencyContext() ctx: IdempotencyContext) {
    await ctx.transaction('save', () => save(manager, 'around-a-step'));
    return { saved: true };
  }

  @Post('unused')
  @Idempotent()
  @UseInterceptors(TransactionInterceptor)
  async unused() {
    await save(this.dataSource.manager, 'unused');
    return { saved: true };
  }

  @Post('unused-by-a-step')
  @Idempotent({ mode: 'lease' })
  @UseInterceptors(CallbackInterceptor)
  async unusedByStep(@IdempotencyContext() ctx: IdempotencyContext) {
    await ctx.transaction('save', (manager) => save(manager, 'unused-by-a-step'));
    return { saved: true };
  }

  @Post('within')
  @UseInterceptors(TransactionInterceptor)
  @Idempotent()
  async within(@Req() { manager }: Carrier) {
    await save(manager, 'within');
    return { saved: true };
  }

  @Post('within-by-callback')
  @UseInterceptors(CallbackInterceptor)
  @Idempotent()
  async withinByCallback() {
    await save(current.getStore(), 'within-by-callback');
    return { saved: true };
  }
}
