import { expect } from '@jest/globals';
import { Controller, type Type } from '@nestjs/common';
import {
  getDataSourceToken,
  getEntityManagerToken,
  getRepositoryToken,
  InjectDataSource,
  InjectRepository,
  TypeOrmModule,
} from '@nestjs/typeorm';
import { DataSource, type DataSourceOptions, type Repository } from 'typeorm';
import { IdempotencyService } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import type { Adapter, TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { database, sessions, start } from './lab.js';
import { Shop } from './shop.controller.js';
import { Books, Orders, Outbox, Script, StopOutside } from './shop.js';

type PostgresOptions = Extract<DataSourceOptions, { type: 'postgres' }>;

@Controller()
class SpecialShop extends Shop {
  constructor(
    orders: Orders,
    outbox: Outbox,
    books: Books,
    script: Script,
    idempotency: IdempotencyService,
    @InjectDataSource('special') dataSource: DataSource,
    @InjectRepository(Effect, 'special') effects: Repository<Effect>,
  ) {
    super(orders, outbox, books, script, idempotency, dataSource, effects);
  }
}

/** The same shop over a second DataSource, which is the one that is configured. */
export async function startWith(
  adapter: Adapter,
  options: Partial<PostgresOptions>,
): Promise<TestApp & { script: Script; special: DataSource }> {
  const name = 'special';
  const inject = <T>(type: Type<T>, ...tokens: unknown[]) => ({
    provide: type,
    useFactory: (...dependencies: unknown[]) => Reflect.construct(type, dependencies) as T,
    inject: tokens as never[],
  });
  const test = await start(adapter, {
    poolSize: 1,
    idempotency: { dataSource: name },
    imports: [
      TypeOrmModule.forRoot({
        name,
        type: 'postgres',
        ...(options.replication === undefined ? { url: database.url } : {}),
        entities: [Effect],
        poolSize: 3,
        retryAttempts: 0,
        ...options,
      } as PostgresOptions),
      TypeOrmModule.forFeature([Effect], name),
    ],
    providers: [
      inject(Orders, getRepositoryToken(Effect, name)),
      inject(Outbox, getEntityManagerToken(name)),
      inject(Books, getDataSourceToken(name)),
      inject(StopOutside, Script),
    ],
    controllers: [SpecialShop],
  });
  return Object.assign(test, { special: test.app.get<DataSource>(getDataSourceToken(name)) });
}

/** First use, replay, mismatch, failure, parallel writes: what every such DataSource has to do as any other. */
export async function expectOrdinary(test: TestApp & { script: Script }): Promise<void> {
  const first = await test.post('/settings', 'k');
  expect([first.status, first.body.toString()]).toEqual([201, '{"bytes":"\\u0000\u00ff\\\\"}']);
  const again = await test.post('/settings', 'k');
  expect(again.headerLines).toContain('Idempotency-Replayed: true');
  expect(again.body.equals(first.body)).toBe(true);
  expect((await test.post('/order', 'k')).status).toBe(422);
  test.script.fails = true;
  expect((await test.post('/order', 'failing')).status).toBe(409);
  test.script.fails = false;
  expect((await test.post('/order', 'failing')).status).toBe(201);
  expect((await test.post('/parallel', 'parallel')).body.toString()).toBe('{"rejected":1}');
  expect(await test.effects()).toHaveLength(2 + 3 + 23);
  const found = await test.app.get(IdempotencyService).find('k');
  expect(Math.abs(found!.createdAt.getTime() - Date.now())).toBeLessThan(60_000);
  await waitFor(async () => (await sessions()).every(({ state }) => state === 'idle'), { what: 'quiet' });
}
