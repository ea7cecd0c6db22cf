import { describe, expect, it } from '@jest/globals';
import { Controller, Post } from '@nestjs/common';
import { Test } from '@nestjs/testing';
import { deferred } from '../../../src/util/deferred.js';
import { IdempotencyModule, IdempotencyService, Idempotent } from '../../../src/index.js';
import { queryOn } from '../../support/empty-database.js';
import {
  boot,
  database,
  Effects,
  expectOneExecution,
  keyRows,
  newLogger,
  Things,
  typeOrm,
  undo,
  withADatabaseEach,
} from './house.js';

withADatabaseEach();

describe('IdempotencyService', () => {
  it('finds a recorded key in its scope, and none that is unknown, expired or still running', async () => {
    const { promise, resolve } = deferred();
    const entered = deferred();

    @Controller('slow')
    class Slow {
      @Post()
      @Idempotent()
      async create() {
        entered.resolve();
        await promise;
        return 'done';
      }
    }
    const test = await boot(IdempotencyModule.forRoot({ ttlMs: 60_000, scope: () => 'alice' }), {
      controllers: [Things, Slow],
    });
    const service = test.app.get(IdempotencyService);
    await test.post('/things?a=1', 'abc');

    const found = await service.find('abc', 'alice');
    expect(found).toEqual({
      scope: 'alice',
      key: 'abc',
      state: 'completed',
      method: 'POST',
      path: '/things',
      status: 201,
      bodyBytes: '{"label":"thing"}'.length,
      bodyKept: true,
      createdAt: expect.any(Date),
      expiresAt: expect.any(Date),
    });
    expect(found!.expiresAt!.getTime() - found!.createdAt.getTime()).toBeCloseTo(60_000, -2);
    expect(await service.find('abc')).toBeUndefined();
    expect(await service.find('def', 'alice')).toBeUndefined();

    const running = test.post('/slow', 'slow');
    await entered.promise;
    expect(await service.find('slow', 'alice')).toBeUndefined();
    resolve();
    await running;
    expect(await service.find('slow', 'alice')).toMatchObject({ key: 'slow', status: 201 });

    const backDate = `created_at = created_at - interval '2 min', expires_at = expires_at - interval '2 min'`;
    await queryOn(database.url, `update idempotency_keys set ${backDate} where key = 'abc'`);
    expect(await service.find('abc', 'alice')).toBeUndefined();
  });

  it('forgets a key, so that its next request runs again', async () => {
    const test = await boot(IdempotencyModule.forRoot());
    const service = test.app.get(IdempotencyService);
    await expectOneExecution(test);

    expect(await service.forget('abc', 'somebody else')).toBe(false);
    expect(await service.forget('abc')).toBe(true);
    expect(await service.forget('abc')).toBe(false);
    await expectOneExecution(test);
  });

  it('purges what has expired', async () => {
    const test = await boot(IdempotencyModule.forRoot());
    await test.post('/things', 'abc');
    await test.post('/things', 'def');
    const backDate = `created_at = created_at - interval '2 days', expires_at = expires_at - interval '2 days'`;
    await queryOn(database.url, `update idempotency_keys set ${backDate} where key = 'abc'`);

    expect(await test.app.get(IdempotencyService).purge()).toBe(1);
    expect(await keyRows()).toMatchObject([{ key: 'def' }]);
  });

  it('lets a write outside of the transaction survive its rollback', async () => {
    @Controller('audited')
    class Audited {
      constructor(
        private readonly effects: Effects,
        private readonly idempotency: IdempotencyService,
      ) {}

      @Post()
      @Idempotent()
      async create() {
        await this.effects.add('inside');
        const { label } = await this.idempotency.outsideTransaction(() => this.effects.add('outside'));
        await this.effects.add(`inside, after ${label}`);
        throw new Error('the handler failed');
      }
    }
    const test = await boot(IdempotencyModule.forRoot(), { controllers: [Audited] });
    expect((await test.post('/audited', 'abc')).status).toBe(500);
    expect(await test.effects()).toEqual(['outside']);
  });

  it('says what to call when it is used before the application was initialised', async () => {
    const builder = Test.createTestingModule({ imports: [typeOrm(), IdempotencyModule.forRoot()] });
    const module = await builder.setLogger(newLogger()).compile();
    undo.push(() => module.close());

    expect(() => module.get(IdempotencyService).find('abc')).toThrow('call app.init() first');
    await module.init();
    await expect(module.get(IdempotencyService).find('abc')).resolves.toBeUndefined();
  });
});
