import { Body, Controller, HttpException, Post } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { IdempotencyContext, type IdempotencyMode, Idempotent } from '../../src/index.js';

/** What must be in no log line and in no answer that is not the handler's own. */
export const SECRET = 'card-4111-secret';

/** Ways in which PostgreSQL quotes values: a row, a key, parameters, a context. */
export const LEAKY_SCHEMA = `
create function refuse(state text, value text) returns void language plpgsql as $$
begin
  raise exception 'refused' using errcode = state, detail = 'the value was ' || value;
end $$;
create table accounts (card text unique deferrable initially deferred, amount int check (amount > 0));
create function refuse_keys() returns trigger language plpgsql as $$
begin
  if new.key like 'unrecordable%' and new.response_status is not null then
    perform refuse('P0001', new.key || coalesce(encode(new.response_body, 'escape'), ''));
  end if;
  return new;
end $$;
create trigger refuse_keys before insert or update on idempotency_keys for each row execute function refuse_keys();
create function refuse_steps() returns trigger language plpgsql as $$
begin
  perform refuse('P0001', new.outcome::text);
  return new;
end $$;
create trigger refuse_steps before insert on idempotency_steps
  for each row when (new.name = 'unstorable') execute function refuse_steps()`;

export function leakyControllers(mode: IdempotencyMode) {
  const inTransaction = <T>(ctx: IdempotencyContext, work: () => Promise<T>): Promise<unknown> =>
    mode === 'lease' ? ctx.transaction('work', work) : work();

  @Controller(mode)
  class Leaky {
    constructor(@InjectDataSource() readonly dataSource: DataSource) {}

    @Post('conflict')
    @Idempotent({ mode })
    async conflict(@IdempotencyContext() ctx: IdempotencyContext) {
      await inTransaction(ctx, () => this.dataSource.query('select refuse($1, $2)', ['40001', SECRET]));
    }

    @Post('deferred')
    @Idempotent({ mode })
    async deferred(@IdempotencyContext() ctx: IdempotencyContext) {
      await inTransaction(ctx, () => this.dataSource.query('insert into accounts values ($1, 1), ($1, 1)', [SECRET]));
    }

    @Post('unrecordable')
    @Idempotent({ mode })
    unrecordable(@Body() { secret }: { secret: string }) {
      return { secret };
    }

    @Post('after')
    @Idempotent({ mode })
    after(@IdempotencyContext() ctx: IdempotencyContext) {
      ctx.afterCommit(() => this.dataSource.query('insert into accounts values ($1, $2)', [SECRET, -1]));
      return { done: true };
    }

    @Post('step')
    @Idempotent({ mode: 'lease' })
    async step(@IdempotencyContext() ctx: IdempotencyContext) {
      await ctx.step('unstorable', () => SECRET);
    }

    @Post('beside')
    @Idempotent({ mode: 'lease' })
    beside(@IdempotencyContext() ctx: IdempotencyContext) {
      void ctx.transaction('work', () => this.dataSource.query('select refuse($1, $2)', ['P0001', SECRET]));
      throw new HttpException('failed beside it', 418);
    }
  }
  return Leaky;
}
