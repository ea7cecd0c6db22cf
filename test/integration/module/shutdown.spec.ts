import { describe, expect, it } from '@jest/globals';
import { Controller, Global, Injectable, Module, type OnApplicationShutdown, Post } from '@nestjs/common';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { IdempotencyModule, Idempotent } from '../../../src/index.js';
import { baseClassOf } from '../../../src/postgres/ambient/replacing.js';
import { Effect } from '../../support/effect.entity.js';
import { queryOn } from '../../support/empty-database.js';
import { openRequest } from '../../support/raw-http.js';
import { waitFor } from '../../support/wait-for.js';
import {
  boot,
  bootWith,
  database,
  Effects,
  keyRows,
  logs,
  REPLAYED,
  Things,
  typeOrm,
  undo,
  withADatabaseEach,
} from './house.js';

withADatabaseEach();

describe('an application that is closed', () => {
  /** A handler that says when it runs, and waits until it may end. */
  function slowController() {
    const entered = deferred();
    const mayEnd = deferred();

    @Controller('slow')
    class Slow {
      constructor(private readonly effects: Effects) {}

      @Post()
      @Idempotent()
      async create() {
        entered.resolve();
        await mayEnd.promise;
        return this.effects.add('slow');
      }
    }
    return { Slow, entered: entered.promise, end: () => mayEnd.resolve() };
  }

  const connections = async () => {
    const [row] = await queryOn<{ count: number }>(
      process.env['TEST_DATABASE_URL']!,
      `select count(*)::int as count from pg_stat_activity where datname = $1 and backend_type = 'client backend'`,
      [database.name],
    );
    return row!.count;
  };

  const resources = () => process.getActiveResourcesInfo().toSorted().join();

  it('lets a request in flight finish, records it, and leaves no connection, timer or socket behind', async () => {
    const before = resources();
    const { Slow, entered, end } = slowController();
    const test = await boot(IdempotencyModule.forRoot({ scope: () => '' }), {
      controllers: [Slow],
      configure: (app) => void app.enableShutdownHooks(),
    });

    const { response } = await openRequest(test.port, {
      method: 'POST',
      path: '/slow',
      headers: [['Idempotency-Key', 'abc']],
    });
    await entered;
    expect(await connections()).toBeGreaterThan(0);
    const closed = test.app.close();
    await waitFor(() => !test.app.getHttpServer().listening, { what: 'the server to stop listening' });
    end();

    const { status, body } = await response;
    expect({ status, body: body.toString() }).toEqual({ status: 201, body: '{"label":"slow"}' });
    await closed;
    expect(await keyRows()).toMatchObject([{ key: 'abc', response_status: 201 }]);
    expect(await queryOn(database.url, 'select label from effects')).toEqual([{ label: 'slow' }]);
    await waitFor(async () => (await connections()) === 0, { what: 'the connections to be closed' });
    await waitFor(() => resources() === before, { what: `only ${before} to be active, not ${resources()}` });
    expect(logs).toEqual([]);
  });

  it.each([
    ['succeeds', false, ['early', 'late'], ['abc']],
    ['fails', true, [], []],
  ])(
    'keeps a request whose client has gone in its transaction to the end, one that %s',
    async (_, fails, written, recorded) => {
      const entered = deferred();
      const mayEnd = deferred();
      const ended = deferred();

      @Controller('slow')
      class Slow {
        constructor(private readonly effects: Effects) {}

        @Post()
        @Idempotent()
        async create() {
          await this.effects.add('early');
          entered.resolve();
          await mayEnd.promise;
          await this.effects.add('late').finally(() => ended.resolve());
          if (fails) throw new Error('the handler failed');
        }
      }

      /** Shut down between this library and the DataSource, and slow enough for whatever still runs. */
      @Injectable()
      class Flusher implements OnApplicationShutdown {
        async onApplicationShutdown(): Promise<void> {
          await ended.promise;
        }
      }

      @Global()
      @Module({ providers: [Flusher] })
      class FlusherModule {}

      @Module({
        imports: [typeOrm(), TypeOrmModule.forFeature([Effect]), FlusherModule, IdempotencyModule.forRoot()],
        controllers: [Slow],
        providers: [Effects],
      })
      class RootModule {}
      const test = await bootWith({ imports: [RootModule] });

      const request = await openRequest(test.port, {
        method: 'POST',
        path: '/slow',
        headers: [['Idempotency-Key', 'abc']],
      });
      await entered.promise;
      request.destroy();
      // The handler goes on only when the server is closed and the hooks of the shutdown are under way.
      test.app.getHttpServer().once('close', () => setImmediate(() => mayEnd.resolve()));
      await test.app.close();

      const labels = await queryOn<{ label: string }>(database.url, 'select label from effects order by id');
      expect(labels.map(({ label }) => label)).toEqual(written);
      expect((await keyRows()).map(({ key }) => key)).toEqual(recorded);
    },
  );

  it('can be followed by another one over the same options, which replays what the first recorded', async () => {
    const options = { scope: () => '' };
    const first = await boot(IdempotencyModule.forRoot(options));
    const recorded = await first.post('/things', 'abc');
    await first.app.close();

    const second = await boot(IdempotencyModule.forRoot(options));
    const replayed = await second.post('/things', 'abc');
    expect(replayed.headerLines).toContain(REPLAYED);
    expect(replayed.body.equals(recorded.body)).toBe(true);
    expect(await second.effects()).toEqual(['thing']);
  });

  it('gives a DataSource that outlives it its own methods back', async () => {
    const dataSource = await new DataSource({
      type: 'postgres',
      url: database.url,
      entities: [Effect],
      synchronize: true,
    }).initialize();
    undo.push(async () => dataSource.isInitialized && dataSource.destroy());
    const runners = baseClassOf(dataSource.createQueryRunner(), 'query');
    const isItsOwn = () => !Object.hasOwn(runners, 'manager');
    expect(isItsOwn()).toBe(true);
    const imports = [
      {
        module: class Shared {},
        global: true,
        providers: [{ provide: DataSource, useValue: dataSource }],
        exports: [DataSource],
      },
      TypeOrmModule.forFeature([Effect]),
      IdempotencyModule.forRoot(),
    ];

    for (const key of ['first', 'second']) {
      const test = await bootWith({ imports, controllers: [Things], providers: [Effects] });
      expect(isItsOwn()).toBe(false);
      expect((await test.post('/things', `${key} failed`, { fail: true })).status).toBe(500);
      expect((await test.post('/things', key, { label: key })).status).toBe(201);
      expect((await test.post('/things', key, { label: key })).headerLines).toContain(REPLAYED);
      await test.app.close();
      expect(isItsOwn()).toBe(true);
    }
    expect((await dataSource.manager.find(Effect)).map(({ label }) => label)).toEqual(['first', 'second']);
  });
});
