import { describe, expect, it } from '@jest/globals';
import { Test } from '@nestjs/testing';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { IdempotencyModule } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import {
  Effects,
  expectOneExecution,
  keyRows,
  listen,
  newLogger,
  Things,
  typeOrm,
  undo,
  withADatabaseEach,
} from './house.js';

withADatabaseEach();

describe('an application under test', () => {
  it('is made by Test.createTestingModule() like any other, with providers replaced', async () => {
    const module = await Test.createTestingModule({
      imports: [typeOrm(), TypeOrmModule.forFeature([Effect]), IdempotencyModule.forRoot()],
      controllers: [Things],
      providers: [Effects],
    })
      .overrideProvider(Effects)
      .useFactory({
        factory: (dataSource: DataSource) => ({
          add: (label: string) => dataSource.manager.save(Effect, { label }),
          labels: async () => (await dataSource.manager.find(Effect)).map(({ label }) => label),
        }),
        inject: [DataSource],
      })
      .setLogger(newLogger())
      .compile();
    const app = module.createNestApplication();
    undo.push(() => app.close());

    await expectOneExecution(await listen(app));
    expect(await keyRows()).toMatchObject([{ key: 'abc' }]);
  });
});
