import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { DataSource } from 'typeorm';
import { deferred } from '../../src/util/deferred.js';
import { Effect } from '../support/effect.entity.js';
import { PLACES, script, ScriptedController } from '../support/scripted-routes.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

/** What is asked for once, whoever asks. */
function memoised<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined;
  return () => (result ??= work());
}

/** As a DataLoader does: all keys of a tick in one statement, on behalf of whoever came first. */
function batchedLabels(dataSource: DataSource): (id: number) => Promise<string | undefined> {
  let batch: { ids: number[]; labels: Promise<Map<number, string>> } | undefined;
  return async (id) => {
    if (batch === undefined) {
      const ids: number[] = [];
      const labels = new Promise<void>((resolve) => process.nextTick(resolve)).then(async () => {
        batch = undefined;
        const found = await dataSource.getRepository(Effect).createQueryBuilder().whereInIds(ids).getMany();
        return new Map(found.map((effect) => [effect.id, effect.label]));
      });
      batch = { ids, labels };
    }
    batch.ids.push(id);
    return (await batch.labels).get(id);
  };
}

describe.each(ADAPTERS)('a handler whose statements wait for each other, on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [ScriptedController] });
    await test.dataSource.query(
      `create function noted() returns int language sql as $$ insert into effects (label) values ('noted') returning 1 $$`,
    );
  });

  beforeEach(async () => {
    await test.dataSource.query(`truncate effects restart identity; insert into effects (label) values ('a'), ('b')`);
    test.logs.length = 0;
  });

  afterAll(() => test.close());

  describe.each(['plain', ...PLACES])('in the place "%s"', (place) => {
    it.each<[what: string, memo: (dataSource: DataSource) => Promise<unknown>]>([
      ['a repository', (dataSource) => dataSource.getRepository(Effect).findOneByOrFail({ label: 'a' })],
      ['a query builder', (dataSource) => dataSource.createQueryBuilder(Effect, 'e').where('id = 1').getOne()],
      ['a query', (dataSource) => dataSource.query('select * from effects where id = $1', [1]).then((rows) => rows[0])],
    ])('gets what %s reads, memoised outside of the nested transaction that awaits it', async (_, read) => {
      const name = script(async (dataSource) => {
        const memo = memoised(() => read(dataSource));
        return Promise.all([dataSource.transaction(async () => memo()), memo()]);
      });
      const response = await test.post(`/${place}/${name}`, randomUUID());
      const effect = { id: 1, label: 'a' };
      expect([response.status, JSON.parse(String(response.body))]).toEqual([201, [effect, effect]]);
    });

    it('gets what a batch reads that was begun outside of the nested transaction', async () => {
      const name = script(async (dataSource) => {
        const load = batchedLabels(dataSource);
        return Promise.all([dataSource.transaction(() => load(1)), load(2)]);
      });
      const response = await test.post(`/${place}/${name}`, randomUUID());
      expect(JSON.parse(String(response.body))).toEqual(['a', 'b']);
    });

    it('may be told of an error by it, which is no one else’s', async () => {
      const name = script(async (dataSource) => {
        const memo = memoised(() => dataSource.query('select 1 / 0').catch((error: Error) => error.message));
        const nested = dataSource.transaction(async (manager) => {
          await manager.insert(Effect, { label: 'kept' });
          return memo();
        });
        return Promise.all([nested, memo()]);
      });
      const response = await test.post(`/${place}/${name}`, randomUUID());
      expect(JSON.parse(String(response.body))).toEqual(['division by zero', 'division by zero']);
      expect(await test.effects()).toEqual(['a', 'b', 'kept']);
    });
  });

  describe.each(PLACES)('in a %s', (place) => {
    it('keeps a read out that would write, until the nested transaction has ended', async () => {
      const name = script(async (dataSource) => {
        const read = deferred();
        const nested = dataSource.transaction(async (manager) => {
          await manager.insert(Effect, { label: 'undone' });
          await read.promise;
          throw new Error('expected');
        });
        const writing = dataSource.query('select noted() as noted');
        await dataSource.query('select 1').then(read.resolve); // handed in behind it: that one has been tried
        await nested.catch(() => undefined);
        return writing;
      });
      const response = await test.post(`/${place}/${name}`, randomUUID());
      expect(JSON.parse(String(response.body))).toEqual([{ noted: 1 }]);
      expect(await test.effects()).toEqual(['a', 'b', 'noted']);
    });

    it('has save() go by what is there when it writes', async () => {
      const name = script(async (dataSource) => {
        const read = deferred();
        const nested = dataSource.transaction(async (manager) => {
          await manager.insert(Effect, { id: 7, label: 'undone' });
          await read.promise;
          throw new Error('expected');
        });
        const saving = dataSource.getRepository(Effect).save({ id: 7, label: 'saved' });
        await dataSource.query('select 1').then(read.resolve);
        await nested.catch(() => undefined);
        return saving;
      });
      expect((await test.post(`/${place}/${name}`, randomUUID())).status).toBe(201);
      expect(await test.effects()).toEqual(['a', 'b', 'saved']);
    });
  });

  it.each(['impatient', 'impatient-step'])(
    'names the two that wait for each other when its time is over: %s',
    async (place) => {
      const over = deferred();
      const name = script(async (dataSource) => {
        const writing = memoised(() => dataSource.query(`insert into effects (label) values ('never')`));
        const nested = dataSource.transaction(async (manager) => {
          await manager.query(`select 'what the nested one did last'`);
          await Promise.race([writing(), over.promise]);
          throw new Error('expected');
        });
        return Promise.all([nested, writing()]);
      });
      const response = await test.post(`/${place}/${name}`, randomUUID());
      over.resolve();
      expect(response.status).toBe(503);
      expect(String(response.body)).not.toContain('insert');
      expect(test.logs.join('\n')).toMatch(/insert into effects .*waits for .*what the nested one did last/s);
      expect(await test.effects()).toEqual(['a', 'b']);
    },
  );

  it('is told of a nested transaction that nobody ends', async () => {
    const name = script(async (dataSource) => {
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      await runner.query(`select 'begun and forgotten'`);
      return 'done';
    });
    const response = await test.post(`/impatient/${name}`, randomUUID());
    expect(response.status).toBe(503);
    expect(test.logs.join('\n')).toMatch(/waits for a nested transaction .*begun and forgotten/s);
  });
});
