import { describe, expect, it } from '@jest/globals';
import { Body, Controller, Post } from '@nestjs/common';
import { getDataSourceToken, InjectDataSource, InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import { DataSource, type Repository } from 'typeorm';
import {
  IdempotencyModule,
  type IdempotencyModuleOptions,
  IdempotencyOptionError,
  Idempotent,
} from '../../../src/index.js';
import { createTestDatabase } from '../../support/database.js';
import { Effect } from '../../support/effect.entity.js';
import { queryOn } from '../../support/empty-database.js';
import { boot, bootError, bootWith, database, keyRows, REPLAYED, typeOrm, undo, withADatabaseEach } from './house.js';

withADatabaseEach();

describe('the option `dataSource`', () => {
  @Controller('ledger')
  class Ledger {
    constructor(
      @InjectRepository(Effect, 'ledger') private readonly entries: Repository<Effect>,
      @InjectDataSource() private readonly other: DataSource,
    ) {}

    @Post()
    @Idempotent()
    async create(@Body() { fail }: { fail?: boolean }) {
      const entry = await this.entries.save({ label: 'entry' });
      await this.other.manager.save(Effect, { label: 'elsewhere' });
      if (fail) throw new Error('the handler failed');
      return entry;
    }
  }

  it('names the one whose transactions carry the keys; others go their own way', async () => {
    const ledger = await createTestDatabase();
    undo.push(ledger.drop);
    const test = await bootWith({
      imports: [
        typeOrm(),
        typeOrm({ name: 'ledger', url: ledger.url }),
        TypeOrmModule.forFeature([Effect], 'ledger'),
        IdempotencyModule.forRoot({ dataSource: 'ledger' }),
      ],
      controllers: [Ledger],
    });

    const first = await test.post('/ledger', 'abc');
    expect(first.status).toBe(201);
    expect((await test.post('/ledger', 'abc')).headerLines).toContain(REPLAYED);
    expect(await keyRows()).toEqual([]);
    expect(await keyRows('idempotency_keys', ledger.url)).toMatchObject([{ key: 'abc' }]);

    expect((await test.post('/ledger', 'def', { fail: true })).status).toBe(500);
    const count = 'select count(*)::int as count from effects';
    expect(await queryOn(ledger.url, count)).toEqual([{ count: 1 }]);
    expect(await queryOn(database.url, count)).toEqual([{ count: 2 }]);
  });

  it('ends the start when no DataSource has that name', async () => {
    const error = await bootError(boot(IdempotencyModule.forRoot({ dataSource: 'ledger' })));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toBe(
      "IdempotencyModule: option 'dataSource' names 'ledger', but no DataSource of that name was given to TypeOrmModule.forRoot().",
    );
  });

  it('is what the start asks for when there is no default DataSource', async () => {
    const error = await bootError(bootWith({ imports: [typeOrm({ name: 'ledger' }), IdempotencyModule.forRoot()] }));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toBe(
      'IdempotencyModule: there is no default DataSource. Import TypeOrmModule.forRoot(), or name yours by the option `dataSource`.',
    );
  });

  it('must not name one that is not for PostgreSQL', async () => {
    // Of all drivers this one is handed its package, and connects to nothing before it is initialised.
    const elsewhere = new DataSource({
      type: 'expo',
      database: 'phone.db',
      driver: { openDatabaseAsync: () => undefined },
    });
    const error = await bootError(
      bootWith({
        imports: [IdempotencyModule.forRoot({ dataSource: 'phone' })],
        providers: [{ provide: getDataSourceToken('phone'), useValue: elsewhere }],
      }),
    );
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toBe(
      "IdempotencyModule: the DataSource is of type 'expo', but keys are kept in PostgreSQL. Name a DataSource of type 'postgres' by the option `dataSource`.",
    );
  });

  it('lets two modules keep the keys of two DataSources apart', async () => {
    const ledger = await createTestDatabase();
    undo.push(ledger.drop);
    const feature = (path: string, dataSource: string, options: IdempotencyModuleOptions) => {
      @Controller(path)
      class Feature {
        constructor(@InjectRepository(Effect, dataSource) private readonly effects: Repository<Effect>) {}

        @Post()
        @Idempotent()
        async create(@Body() { fail }: { fail?: boolean }) {
          const effect = await this.effects.save({ label: path });
          if (fail) throw new Error('the handler failed');
          return effect;
        }
      }
      class FeatureModule {}
      return {
        module: FeatureModule,
        imports: [
          TypeOrmModule.forFeature([Effect], dataSource),
          IdempotencyModule.forRoot({ ...options, isGlobal: false }),
        ],
        controllers: [Feature],
      };
    };
    const test = await bootWith({
      imports: [
        typeOrm(),
        typeOrm({ name: 'ledger', url: ledger.url }),
        feature('shop', 'default', {}),
        feature('ledger', 'ledger', { dataSource: 'ledger' }),
      ],
    });

    for (const path of ['/shop', '/ledger']) {
      expect((await test.post(path, 'failed', { fail: true })).status).toBe(500);
      expect((await test.post(path, 'abc')).status).toBe(201);
      expect((await test.post(path, 'abc')).headerLines).toContain(REPLAYED);
    }
    for (const { url } of [database, ledger]) {
      expect(await keyRows('idempotency_keys', url)).toMatchObject([{ key: 'abc' }]);
      expect(await queryOn(url, 'select count(*)::int as count from effects')).toEqual([{ count: 1 }]);
    }
  });
});
