import { describe, expect, it } from '@jest/globals';
import { Controller, Module, Post } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { IdempotencyModule, Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { boot, bootError, Effects, expectOneExecution, keyRows, withADatabaseEach } from './house.js';

withADatabaseEach();

describe('a module that is not global', () => {
  it.each([
    ['forRoot', IdempotencyModule.forRoot({ isGlobal: false })],
    ['forRootAsync', IdempotencyModule.forRootAsync({ isGlobal: false, useFactory: () => ({}) })],
  ])('serves those modules that import it, all with the same keys: %s', async (_, idempotency) => {
    const feature = (path: string) => {
      @Controller(path)
      class Feature {
        constructor(private readonly effects: Effects) {}

        @Post()
        @Idempotent()
        create() {
          return this.effects.add('thing');
        }
      }
      class FeatureModule {}
      const imports = [TypeOrmModule.forFeature([Effect]), idempotency];
      return { module: FeatureModule, imports, providers: [Effects], controllers: [Feature] };
    };
    const test = await boot(undefined, { imports: [feature('first'), feature('second')], controllers: [] });

    await expectOneExecution(test, '/first');
    expect((await test.post('/second', 'abc')).status).toBe(422);
    expect((await test.post('/second', 'def')).status).toBe(201);
    expect(await keyRows()).toMatchObject([{ key: 'abc' }, { key: 'def' }]);
  });

  it('is missed at boot by a module that does not import it', async () => {
    @Module({ imports: [IdempotencyModule.forRoot({ isGlobal: false })] })
    class ElsewhereModule {}
    const error = await bootError(boot(undefined, { imports: [ElsewhereModule] }));
    expect(error.message).toContain('@Idempotent() of Things.create: AppModule does not import IdempotencyModule');
  });
});
