import {
  Body,
  type CallHandler,
  Controller,
  type ExecutionContext,
  Inject,
  Injectable,
  type NestInterceptor,
  Post,
  UseInterceptors,
} from '@nestjs/common';
import { concatMap, type Observable, of } from 'rxjs';
import { DataSource } from 'typeorm';
import { Effect } from '../effect.entity.js';
import type { VariantApp } from '../variant-app.js';

/** Look the key up, run the handler, store what it returned: three transactions. */
@Injectable()
class BlogPostInterceptor implements NestInterceptor {
  constructor(@Inject(DataSource) private readonly dataSource: DataSource) {}

  async intercept(context: ExecutionContext, next: CallHandler): Promise<Observable<unknown>> {
    const key = context.switchToHttp().getRequest<{ headers: Record<string, string> }>().headers['idempotency-key'];
    const rows = await this.dataSource.query<{ response: unknown }[]>(
      'select response from handwritten_keys where key = $1',
      [key],
    );
    if (rows[0] !== undefined) {
      return of(rows[0].response);
    }
    return next.handle().pipe(
      concatMap(async (response: unknown) => {
        await this.dataSource.query('insert into handwritten_keys (key, response) values ($1, $2)', [
          key,
          JSON.stringify(response),
        ]);
        return response;
      }),
    );
  }
}

@Controller('operations')
class OperationsController {
  constructor(@Inject(DataSource) private readonly dataSource: DataSource) {}

  @Post()
  @UseInterceptors(BlogPostInterceptor)
  async create(@Body() body: unknown): Promise<unknown> {
    await this.dataSource.transaction((manager) => manager.insert(Effect, { label: 'x' }));
    return body;
  }
}

export const app: VariantApp = {
  controllers: [OperationsController],
  ddl: [
    'create table handwritten_keys (key text primary key, response jsonb not null, created_at timestamptz not null default now())',
  ],
};
