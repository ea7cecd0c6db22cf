import { describe, expect, it } from '@jest/globals';
import { Controller, Injectable, Logger, Module, Post } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import {
  IdempotencyModule,
  type IdempotencyModuleOptions,
  IdempotencyOptionError,
  Idempotent,
} from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import {
  boot,
  bootError,
  bootWith,
  Effects,
  expectOneExecution,
  keyRows,
  Things,
  typeOrm,
  withADatabaseEach,
} from './house.js';

withADatabaseEach();

describe('IdempotencyModule.forRoot()', () => {
  it('needs no argument: it takes the default DataSource', async () => {
    const test = await boot(IdempotencyModule.forRoot());
    await expectOneExecution(test);
    expect(await keyRows()).toEqual([
      { scope: '', key: 'abc', response_status: 201, ttl: expect.closeTo(24 * 60 * 60 * 1000, -2) },
    ]);
  });

  it('says at boot what is in force, in one line', async () => {
    const told: string[] = [];
    const tell = (line: unknown): void => void told.push(String(line));
    await boot(IdempotencyModule.forRoot({ ttlMs: 60_000, hashSecret: 'sixteen characters' }), {
      configure: () => Logger.overrideLogger({ log: tell, warn: tell, error: tell }),
    });
    expect(told.filter((line) => line.startsWith('Ready with '))).toEqual([
      expect.stringMatching(
        /^Ready with mode 'transaction', .*ttlMs 60000, .*schema 'public', and hashSecret of its own$/,
      ),
    ]);
  });

  it('may be imported before the module of its DataSource', async () => {
    const test = await bootWith({
      imports: [IdempotencyModule.forRoot(), typeOrm(), TypeOrmModule.forFeature([Effect])],
      controllers: [Things],
      providers: [Effects],
    });
    await expectOneExecution(test);
    expect(await keyRows()).toMatchObject([{ key: 'abc' }]);
  });

  it('serves the controllers of every module once it is imported in one', async () => {
    @Controller('others')
    class Others {
      constructor(private readonly effects: Effects) {}

      @Post()
      @Idempotent()
      create() {
        return this.effects.add('other');
      }
    }
    @Module({ imports: [TypeOrmModule.forFeature([Effect])], providers: [Effects], controllers: [Others] })
    class OthersModule {}
    const test = await boot(IdempotencyModule.forRoot(), { imports: [OthersModule] });

    await expectOneExecution(test);
    expect((await test.post('/others', 'abc')).status).toBe(422);
    expect((await test.post('/others', 'def')).status).toBe(201);
  });

  it('does no harm where it is imported twice: each request is still carried out once', async () => {
    const test = await boot(IdempotencyModule.forRoot(), { imports: [IdempotencyModule.forRoot()] });
    expect((await test.post('/things', 'failed', { fail: true })).status).toBe(500);
    expect(await test.effects()).toEqual([]);
    await expectOneExecution(test);
    expect(await keyRows()).toMatchObject([{ key: 'abc' }]);
  });

  it.each([
    ['forRoot()', () => IdempotencyModule.forRoot({ ttlMs: -1 }), "option 'ttlMs' must be a whole number"],
    ['forRoot()', () => IdempotencyModule.forRoot({ ttl: 1 } as object), "there is no option 'ttl'"],
    [
      'forRootAsync()',
      () => IdempotencyModule.forRootAsync({ useFactory: async () => ({ inFlight: 'wait' as never }) }),
      "option 'inFlight' must be 'reject' or { waitMs",
    ],
    [
      'forRootAsync()',
      () => IdempotencyModule.forRootAsync({ useFactory: () => undefined as never }),
      'the options must be an object, not undefined',
    ],
  ])('ends the start of the application on a wrong option of %s', async (_, idempotency, message) => {
    const error = await bootError(bootWith({ imports: [idempotency()] }));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect(error.message).toContain(`IdempotencyModule: ${message}`);
  });
});

describe('IdempotencyModule.forRootAsync()', () => {
  const TTL_MS = 123_000;

  @Injectable()
  class Settings {
    readonly ttlMs = TTL_MS;

    createIdempotencyOptions(): IdempotencyModuleOptions {
      return { ttlMs: this.ttlMs };
    }
  }

  @Module({ providers: [Settings], exports: [Settings] })
  class SettingsModule {}

  it.each([
    [
      'useFactory, with what it injects',
      IdempotencyModule.forRootAsync({
        imports: [SettingsModule],
        inject: [Settings],
        useFactory: async (settings: Settings) => ({ ttlMs: settings.ttlMs }),
      }),
    ],
    ['useClass', IdempotencyModule.forRootAsync({ useClass: Settings })],
    ['useExisting', IdempotencyModule.forRootAsync({ imports: [SettingsModule], useExisting: Settings })],
  ])('takes its options from %s', async (_, idempotency) => {
    const test = await boot(idempotency);
    await expectOneExecution(test);
    expect(await keyRows()).toMatchObject([{ key: 'abc', ttl: expect.closeTo(TTL_MS, -2) }]);
  });
});
