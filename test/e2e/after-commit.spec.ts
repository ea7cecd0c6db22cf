import { Body, ConflictException, Controller, Get, Injectable, Param, Post } from '@nestjs/common';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { Idempotent, IdempotencyContext, IdempotencyService } from '../../src/index.js';
import { Effect } from '../support/effect.entity.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

/** What callbacks have told, each with the effects that another connection sees by then. */
let told: string[];
/** What a handler does when it is asked to, by name. */
let scripts: Record<string, (use: Use) => Promise<unknown>>;

interface Use {
  orders: Orders;
  context: IdempotencyContext | undefined;
  body: { fails?: boolean };
}

/** A service that knows nothing of requests. */
@Injectable()
class Orders {
  constructor(
    readonly dataSource: DataSource,
    readonly idempotency: IdempotencyService,
  ) {}

  async place(label: string): Promise<void> {
    this.idempotency.afterCommit(() => this.tell(label));
    await this.dataSource.getRepository(Effect).save({ label });
  }

  async tell(label: string): Promise<void> {
    const seen = await this.idempotency.outsideTransaction(() => this.dataSource.getRepository(Effect).find());
    told.push(`${label}, seen: ${seen.map((effect) => effect.label).join(' ')}`);
  }
}

@Controller()
class OrdersController {
  constructor(private readonly orders: Orders) {}

  @Post('transaction/:script')
  @Idempotent()
  transaction(
    @Param('script') script: string,
    @Body() body: object,
    @IdempotencyContext() context: IdempotencyContext,
  ) {
    return scripts[script]!({ orders: this.orders, context, body });
  }

  @Post('storing/:script')
  @Idempotent({ storeErrors: () => true })
  storing(@Param('script') script: string, @Body() body: object, @IdempotencyContext() context: IdempotencyContext) {
    return scripts[script]!({ orders: this.orders, context, body });
  }

  @Post('lease/:script')
  @Idempotent({ mode: 'lease' })
  lease(@Param('script') script: string, @Body() body: object, @IdempotencyContext() context: IdempotencyContext) {
    return scripts[script]!({ orders: this.orders, context, body });
  }

  @Get('plain/:script')
  plain(@Param('script') script: string) {
    return scripts[script]!({ orders: this.orders, context: undefined, body: {} });
  }
}

class Expected extends Error {}

describe.each(ADAPTERS)('IdempotencyService.afterCommit on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [OrdersController], providers: [Orders] });
  });

  afterAll(() => test.close());

  beforeEach(async () => {
    told = [];
    scripts = {};
    await test.dataSource.query('truncate effects, idempotency_keys');
  });

  const untilTold = (count: number) => waitFor(() => told.length >= count, { what: `${count} callbacks` });

  it('runs in a service of a handler once its writes can be seen, and not for a replay', async () => {
    scripts['one'] = async ({ orders }) => {
      await orders.place('a');
      expect(told).toEqual([]);
      return 'done';
    };
    expect((await test.post('/transaction/one', 'k')).status).toBe(201);
    await untilTold(1);
    expect((await test.post('/transaction/one', 'k')).status).toBe(201);
    expect(told).toEqual(['a, seen: a']);
  });

  it('does not run where the handler fails, nor where its error is recorded without its writes', async () => {
    scripts['fails'] = async ({ orders, body }) => {
      await orders.place(body.fails ? 'undone' : 'kept');
      if (body.fails) throw new ConflictException();
      return 'done';
    };
    expect((await test.post('/transaction/fails', 'rolled back', { fails: true })).status).toBe(409);
    expect((await test.post('/storing/fails', 'recorded', { fails: true })).status).toBe(409);
    expect((await test.post('/transaction/fails', 'k')).status).toBe(201);
    await untilTold(1);
    expect(told).toEqual(['kept, seen: kept']);
  });

  it('does not run where the nested transaction around it is undone; one that is kept waits for COMMIT', async () => {
    scripts['nested'] = async ({ orders, context }) => {
      const { dataSource } = orders;
      await dataSource
        .transaction(async () => {
          context!.afterCommit(() => orders.tell('undone, by the context'));
          await dataSource.transaction(() => orders.place('kept by what is undone'));
          await orders.place('undone');
          throw new Expected();
        })
        .catch(() => undefined);
      await dataSource.transaction(() => dataSource.transaction(() => orders.place('kept')));
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      await orders.place('rolled back');
      await runner.rollbackTransaction();
      await runner.startTransaction();
      await orders.place('committed');
      await runner.commitTransaction();
      await runner.release();
      await orders.place('last');
      expect(told).toEqual([]);
    };
    expect((await test.post('/transaction/nested', 'k')).status).toBe(201);
    await untilTold(3);
    expect(told).toEqual(['kept', 'committed', 'last'].map((label) => `${label}, seen: kept committed last`));
  });

  it('runs at once outside of an idempotent request, and logs its errors', async () => {
    scripts['plain'] = async ({ orders }) => {
      await orders.place('a');
      orders.idempotency.afterCommit(() => Promise.reject(new Error('by a promise')));
      orders.idempotency.afterCommit(() => {
        throw new Error('thrown');
      });
      return 'done';
    };
    const before = test.logs.length;
    expect((await test.request({ method: 'GET', path: '/plain/plain' })).status).toBe(200);
    await untilTold(1);
    await waitFor(() => test.logs.length >= before + 2, { what: 'the errors to be logged' });
    expect(test.logs.slice(before).toSorted()).toEqual([
      expect.stringContaining('by a promise'),
      expect.stringContaining('thrown'),
    ]);
  });

  it('runs in lease mode once the response is recorded', async () => {
    scripts['lease'] = async ({ orders, context }) => {
      orders.idempotency.afterCommit(async () => told.push((await orders.idempotency.find('k'))!.state));
      await context!.step('a', () => orders.idempotency.afterCommit(() => told.push('in a step')));
      expect(told).toEqual([]);
      return 'done';
    };
    expect((await test.post('/lease/lease', 'k')).status).toBe(201);
    await untilTold(2);
    expect(told).toEqual(['completed', 'in a step']);
  });

  it('runs after the COMMIT of ctx.transaction, also when the handler fails later, and once for all attempts', async () => {
    scripts['step'] = async ({ orders, context, body }) => {
      await context!.transaction('a', async () => {
        await orders.place('a');
        context!.afterCommit(() => told.push('by the context'));
        expect(told).toEqual([]);
      });
      told.push('next');
      await context!
        .transaction('b', async () => {
          await orders.place('undone');
          throw new Expected();
        })
        .catch(() => undefined);
      if (body.fails) throw new Error('no');
      return 'done';
    };
    const payload = { fails: true };
    expect((await test.post('/lease/step', 'k', payload)).status).toBe(500);
    expect(told).toEqual(['a, seen: a', 'by the context', 'next']);
    expect((await test.post('/lease/step', 'k', payload)).status).toBe(500);
    expect(told).toEqual(['a, seen: a', 'by the context', 'next', 'next']);
  });
});
