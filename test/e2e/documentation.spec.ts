import { randomUUID } from 'node:crypto';
import {
  Body,
  type CallHandler,
  Controller,
  type ExecutionContext,
  Injectable,
  type NestInterceptor,
  Post,
  UseInterceptors,
} from '@nestjs/common';
import { InjectDataSource, InjectRepository } from '@nestjs/typeorm';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { type DataSource, Repository } from 'typeorm';
import { Idempotent } from '../../src/index.js';
import { blocksOf } from '../docs/pages.js';
import { Effect } from '../support/effect.entity.js';
import { queriesOn } from '../support/empty-database.js';
import type { RawResponse } from '../support/raw-http.js';
import { json, replayOf } from '../support/response.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

/** Of the recipes of docs/recipes.md for tenants. Roles belong to the server: this one is of this run alone. */
const ROLE = `shop_tenant_${randomUUID().replaceAll('-', '')}`;

const tenantOf = (context: ExecutionContext): string =>
  context.switchToHttp().getRequest<{ headers: Record<string, string> }>().headers['x-tenant']!;

@Injectable()
class TenantInterceptor implements NestInterceptor {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  async intercept(context: ExecutionContext, next: CallHandler) {
    await this.dataSource.query(`select set_config('app.tenant', $1, true), set_config('role', '${ROLE}', true)`, [
      tenantOf(context),
    ]);
    return next.handle();
  }
}

@Injectable()
class SchemaInterceptor implements NestInterceptor {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  async intercept(context: ExecutionContext, next: CallHandler) {
    await this.dataSource.query(`select set_config('search_path', quote_ident($1) || ', public', true)`, [
      tenantOf(context),
    ]);
    return next.handle();
  }
}

@Controller()
class TenantsController {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('rows')
  @UseInterceptors(TenantInterceptor)
  @Idempotent({ scope: tenantOf })
  rows(@Body() { tenant }: { tenant: string }) {
    return this.add(tenant);
  }

  @Post('schemas')
  @UseInterceptors(SchemaInterceptor)
  @Idempotent({ scope: tenantOf })
  schemas(@Body() { tenant }: { tenant: string }) {
    return this.add(tenant);
  }

  private async add(tenant: string) {
    await this.dataSource.query('insert into invoices values ($1)', [tenant]);
    return this.dataSource.query('select tenant, count(*)::int4 as invoices from invoices group by 1 order by 1');
  }
}

@Controller('payments')
class PaymentsController {
  constructor(@InjectRepository(Effect) private readonly payments: Repository<Effect>) {}

  @Post()
  @Idempotent()
  create(@Body() { amount }: { amount: number }) {
    return this.payments.save({ label: String(amount) });
  }
}

/** The curl lines of the page, each as path, key and body. */
const LINES = blocksOf('docs/getting-started.md')
  .flatMap(({ code }) => code.split('\n'))
  .map((line) => /^curl -i \$api(\S+) -H '.*' -H 'Idempotency-Key: (.*)' -d '(.*)'$/.exec(line)?.slice(1))
  .filter((found) => found !== undefined) as [path: string, key: string, body: string][];

describe.each(ADAPTERS)('what the documentation shows, on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [TenantsController, PaymentsController] });
    await queriesOn(test.databaseUrl, [
      'create table invoices (tenant text not null)',
      'alter table invoices enable row level security',
      `create policy of_tenant on invoices using (tenant = current_setting('app.tenant'))`,
      `create role ${ROLE}`,
      `grant select, insert on invoices to ${ROLE}`,
      'create schema ada',
      'create table ada.invoices (tenant text not null)',
      'create schema bob',
      'create table bob.invoices (tenant text not null)',
    ]);
  });

  afterAll(async () => {
    await queriesOn(test.databaseUrl, [`drop owned by ${ROLE}`, `drop role ${ROLE}`]);
    await test.close();
  });

  const post = (path: string, caller: string, tenant = caller) =>
    test.post(path, `the same key of ${path}`, { tenant }, [['X-Tenant', caller]]);

  it.each(['/rows', '/schemas'])('tenants by %s see their own alone, and have keys of their own', async (path) => {
    const ada = await post(path, 'ada');
    const bob = await post(path, 'bob');
    expect([ada.status, bob.status]).toEqual([201, 201]);
    expect(json(ada)).toEqual([{ tenant: 'ada', invoices: 1 }]);
    expect(json(bob)).toEqual([{ tenant: 'bob', invoices: 1 }]);
    expect(await post(path, 'ada')).toEqual(replayOf(ada));
    expect(await post(path, 'bob')).toEqual(replayOf(bob));
  });

  it('a tenant cannot write for another, and the session that did not let him is as it was for the next request', async () => {
    expect((await post('/rows', 'eve', 'ada')).status).toBe(500);
    expect((await post('/rows', 'eve')).status).toBe(201);
    const [{ tenant, role }] = await test.dataSource.query(
      `select current_setting('app.tenant', true) as tenant, current_setting('role') as role`,
    );
    expect([tenant ?? '', role]).toEqual(['', 'none']);
  });

  it('the lines of docs/getting-started.md pay once, replay, and refuse another payment under the same key', async () => {
    const answers: RawResponse[] = [];
    for (const [path, key, body] of LINES) {
      answers.push(await test.post(path, key, JSON.parse(body)));
    }
    const [first, retry, other] = answers;
    expect(answers.map(({ status }) => status)).toEqual([201, 201, 422]);
    expect(retry).toEqual(replayOf(first!));
    expect(json(other!)).toMatchObject({ type: 'urn:nestjs-idempotency:key-reused' });
    expect(await test.effects()).toEqual(['1000']);
  });
});
