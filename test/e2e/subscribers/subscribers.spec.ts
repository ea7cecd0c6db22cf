import { ConflictException } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { Effect } from '../../support/effect.entity.js';
import { type Place, type ScriptedApp, startScriptedApp } from '../../support/scripted-app.js';
import type { Adapter } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { collected, Collector } from './collector.js';

let database: TestDatabase;
let observer: Client;
let dataSource: DataSource;

class Expected extends Error {}

beforeAll(async () => {
  database = await createTestDatabase();
  observer = new Client(database.url);
  await observer.connect();
  await new DataSource({ type: 'postgres', url: database.url, entities: [Effect], synchronize: true })
    .initialize()
    .then((made) => made.destroy());
});

afterAll(async () => {
  await observer.end();
  await database.drop();
});

beforeEach(async () => {
  await observer.query('truncate effects, idempotency_keys cascade');
  dataSource = await new DataSource({
    type: 'postgres',
    url: database.url,
    entities: [Effect],
    subscribers: [Collector],
    poolSize: 4,
  }).initialize();
  Object.assign(collected, { told: [], runners: [], published: [], data: [] });
  Object.assign(collected, { beforeCommit: undefined, afterCommit: undefined, aroundQuery: undefined });
});

afterEach(() => dataSource.destroy());

const effects = async (): Promise<string[]> =>
  (await observer.query<{ label: string }>('select label from effects order by id')).rows.map(({ label }) => label);

const add = (label: string, data?: object) => dataSource.getRepository(Effect).save({ label }, { data });

describe.each<[Adapter, Place]>([
  ['express', 'transaction'],
  ['fastify', 'transaction'],
  ['express', 'step'],
])("TypeORM's subscribers on %s, in a %s", (adapter, place) => {
  let app: ScriptedApp;

  beforeEach(async () => {
    app = await startScriptedApp(dataSource, adapter);
  });

  afterEach(() => app.close());

  it('are told of one transaction, with one runner for all that it did', async () => {
    const { status } = await app.run(place, async (_, manager) => {
      await Promise.all([add('a'), add('b')]);
      await manager.save(Effect, { label: 'c' });
      await dataSource.createQueryBuilder().insert().into(Effect).values({ label: 'd' }).execute();
      const runner = dataSource.createQueryRunner();
      await runner.manager.save(Effect, { label: 'e' });
      await runner.release();
      expect(collected.told).toEqual(['before start 1', 'after start 1']);
      collected.afterCommit = async () => expect(await effects()).toHaveLength(5);
    });
    expect(status).toBe(201);
    expect(collected.told).toEqual(['before start 1', 'after start 1', 'before commit 1', 'after commit 1']);
    expect(collected.published).toEqual(['a', 'b', 'c', 'd', 'e']);
  });

  it('are told of nested ones that are kept when all has committed', async () => {
    const { status } = await app.run(place, async () => {
      await dataSource.transaction(async (manager) => {
        await manager.save(Effect, { label: 'nested' });
        await dataSource.transaction(() => add('in it'));
      });
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      await add("a runner's");
      await runner.commitTransaction();
      await runner.release();
      await add('around');
      expect(collected.published).toEqual([]);
    });
    expect(status).toBe(201);
    expect(collected.published).toEqual(['in it', 'nested', "a runner's", 'around']);
    expect(collected.told.filter((one) => one.startsWith('after commit'))).toHaveLength(4);
    expect(collected.told.filter((one) => one.includes('rollback'))).toEqual([]);
  });

  it('are told of nested ones that are undone, and never after COMMIT', async () => {
    const { status } = await app.run(place, async () => {
      await add('before');
      await dataSource
        .transaction(async () => {
          await dataSource.transaction(() => add('kept by what is undone'));
          await add('undone');
          throw new Expected();
        })
        .catch(() => undefined);
      await add('after');
    });
    expect(status).toBe(201);
    expect(collected.published).toEqual(['before', 'after']);
    expect(collected.told.join(', ')).toBe(
      'before start 1, after start 1, before start 2, after start 2, before start 3, after start 3, ' +
        'before commit 3, before rollback 2, before rollback 3, after rollback 3, after rollback 2, ' +
        'before commit 1, after commit 1',
    );
  });

  it('are told of a rollback where the handler fails', async () => {
    const { status } = await app.run(place, async () => {
      await dataSource.transaction(() => add('nested'));
      await add('undone');
      throw new ConflictException();
    });
    expect(status).toBe(409);
    await waitFor(() => collected.told.includes('after rollback 1'), { what: 'the rollback to be told of' });
    expect(collected.told.slice(-4).join(', ')).toBe(
      'before rollback 1, before rollback 2, after rollback 2, after rollback 1',
    );
    expect(collected.published).toEqual([]);
    expect(await effects()).toEqual([]);
  });

  it('write before COMMIT in the transaction, and fail the handler by their errors', async () => {
    const key = 'k';
    collected.beforeCommit = async (manager) => {
      await manager.insert(Effect, { label: 'by the subscriber' });
      await add('by a repository');
      throw new ConflictException('of the subscriber');
    };
    const work = () => add('by the handler');
    const failed = await app.run(place, work, key);
    expect([failed.status, failed.body.toString()]).toEqual([409, expect.stringContaining('of the subscriber')]);
    expect(await effects()).toEqual([]);
    collected.beforeCommit = (manager) => manager.insert(Effect, { label: 'by the subscriber' });
    expect((await app.run(place, work)).status).toBe(201);
    expect(await effects()).toEqual(['by the handler', 'by the subscriber']);
  });

  it('have ordinary connections after COMMIT, and their errors change nothing', async () => {
    collected.afterCommit = async (manager) => {
      collected.afterCommit = undefined;
      await manager.insert(Effect, { label: 'by the event' });
      await add('by a repository');
      await dataSource.transaction((own) => own.insert(Effect, { label: 'in a transaction' }));
      throw new Error('of the subscriber');
    };
    const response = await app.run(place, () => add('by the handler'));
    expect(response.status).toBe(201);
    expect(await effects()).toEqual(['by the handler', 'by the event', 'by a repository', 'in a transaction']);
    expect(app.logs).toEqual([expect.stringContaining('of the subscriber')]);
  });

  it('use the DataSource before and after each statement', async () => {
    const { status } = await app.run(place, async () => {
      collected.aroundQuery = async (query, manager) => {
        if (!query.includes('watched')) return;
        await dataSource.query(`insert into effects (label) values ('by the DataSource')`);
        await manager.query(`insert into effects (label) values ('by the event')`);
        await dataSource.transaction((own) => own.query(`insert into effects (label) values ('in a transaction')`));
      };
      await Promise.all([
        dataSource.query('select 1 as watched'),
        dataSource.transaction((manager) => manager.query('select 2 as watched')),
        dataSource.query(`insert into effects (label) values ('beside')`),
      ]);
    });
    expect(status).toBe(201);
    const made = (await effects()).filter((label) => label !== 'beside');
    const inTurn = Array.from({ length: 4 }, () => ['by the DataSource', 'by the event', 'in a transaction']).flat();
    // TypeORM 0.3 does not wait for what is told before a statement until it tells what is after it.
    const waits = 'dataSource' in dataSource.manager;
    expect(waits ? made : made.toSorted()).toEqual(waits ? inTurn : inTurn.toSorted());
  });

  it('get the data of each save', async () => {
    await app.run(place, async (_, manager) => {
      await add('a', { by: 'Ada' });
      await add('b');
      manager.queryRunner!.data = { by: 'the handler' };
      await manager.save(Effect, { label: 'c' });
      await dataSource.transaction((nested) => nested.save(Effect, { label: 'd' }, { data: { by: 'Bob' } }));
    });
    expect(collected.data).toEqual([{ by: 'Ada' }, {}, { by: 'the handler' }, { by: 'Bob' }]);
  });
});

describe('for a request that is not recorded as it was meant to be', () => {
  let app: ScriptedApp;

  beforeEach(async () => {
    app = await startScriptedApp(dataSource, 'express');
  });

  afterEach(() => app.close());

  it.each<[string, Place, () => unknown, number]>([
    ['an error that is recorded without its writes', 'storing', () => Promise.reject(new ConflictException()), 409],
    ['a time limit', 'transaction', () => dataSource.query('select pg_sleep(60)'), 503],
    [
      'a deferred constraint',
      'transaction',
      () =>
        dataSource.query(
          `create temporary table t (id int primary key deferrable initially deferred); insert into t values (1), (1)`,
        ),
      500,
    ],
  ])('%s is told of as a rollback', async (_, place, fail, status) => {
    const response = await app.run(place, async () => {
      await add('undone');
      await fail();
    });
    expect(response.status).toBe(status);
    await waitFor(() => collected.told.includes('after rollback 1'), { what: 'the rollback to be told of' });
    expect(collected.told.filter((one) => one.startsWith('after commit'))).toEqual([]);
    expect(collected.published).toEqual([]);
  });
});
