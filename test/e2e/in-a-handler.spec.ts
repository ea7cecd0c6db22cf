import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { DataSource } from 'typeorm';
import { IdempotencyService } from '../../src/index.js';
import { Effect } from '../support/effect.entity.js';
import { PLACES, type Script, script, ScriptedController } from '../support/scripted-routes.js';
import { createTestApp, type TestApp } from '../support/test-app.js';

/** The recipes of docs/in-a-handler.md: each does in a handler what plain code does, and what it replaces does not. */
describe('a recipe for a handler', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter: 'express', controllers: [ScriptedController] });
    await test.dataSource.query(
      'create table seats (seat int, constraint one_each unique (seat) deferrable initially deferred)',
    );
    await test.dataSource.query('create table stock (item text primary key, left_over int)');
  });

  beforeEach(() => test.dataSource.query(`truncate effects, seats, stock; insert into stock values ('last one', 3)`));

  afterAll(() => test.close());

  const run = async (place: string, work: Script): Promise<{ status: number; body: string }> => {
    const { status, body } = await test.post(`/${place}/${script(work)}`, randomUUID());
    return { status, body: String(body) };
  };

  describe.each(['plain', ...PLACES])('in the place "%s"', (place) => {
    it('catches a deferred constraint of a nested transaction', async () => {
      const take = async (dataSource: DataSource): Promise<void> => {
        await dataSource.transaction(async (manager) => {
          await manager.query('insert into seats values (1), (1)');
          await manager.query('set constraints all immediate'); // what COMMIT would check
        });
      };
      const { status, body } = await run(place, async (dataSource) => {
        const taken = await take(dataSource).then(
          () => 'taken',
          () => 'refused',
        );
        await dataSource.getRepository(Effect).insert({ label: 'went on' });
        return taken;
      });
      expect([status, body]).toEqual([201, 'refused']);
      expect(await test.effects()).toEqual(['went on']);
      expect(await test.dataSource.query('select from seats')).toEqual([]);
    });

    it('uses a temporary table twice', async () => {
      const sum = (dataSource: DataSource): Promise<number> =>
        dataSource.transaction(async (manager) => {
          await manager.query('create temp table numbers (n int) on commit drop');
          await manager.query('insert into numbers values (1), (2)');
          const [{ sum: total }] = await manager.query('select sum(n)::int4 from numbers');
          await manager.query('drop table numbers');
          return total;
        });
      const { body } = await run(place, async (dataSource) => [await sum(dataSource), await sum(dataSource)]);
      expect(JSON.parse(body)).toEqual([3, 3]);
    });

    it('sets something for a part of its work', async () => {
      const { body } = await run(place, async (dataSource) => {
        const setting = `select current_setting('app.user', true) as name`;
        const inside = await dataSource.transaction(async (manager) => {
          await manager.query(`select set_config('app.user', 'ada', true)`);
          const rows = await manager.query(setting);
          await manager.query(`select set_config('app.user', '', true)`);
          return rows[0].name;
        });
        return [inside, (await dataSource.query(setting))[0].name ?? ''];
      });
      expect(JSON.parse(body)).toEqual(['ada', '']);
    });

    it('tells the time of each statement', async () => {
      const { body } = await run(place, async (dataSource) => {
        const [before] = await dataSource.query('select clock_timestamp() as at');
        const [after] = await dataSource.query('select clock_timestamp() > $1::timestamptz as later', [before.at]);
        return after.later;
      });
      expect(body).toBe('true');
    });

    it('sells no more than there is to buyers at the same time', async () => {
      const buy = script(async (dataSource) => {
        const [, sold] = await dataSource.query(
          `update stock set left_over = left_over - 1 where item = 'last one' and left_over > 0`,
        );
        return sold;
      });
      const buyers = Array.from({ length: 5 }, () => test.post(`/${place}/${buy}`, randomUUID()));
      const bodies = (await Promise.all(buyers)).map(({ body }) => String(body));
      expect(bodies.toSorted()).toEqual(['0', '0', '1', '1', '1']);
    });

    it('keeps a lock until COMMIT has made visible what it guards', async () => {
      const buy = script((dataSource) =>
        dataSource.transaction(async (manager) => {
          await manager.query(`select pg_advisory_xact_lock(hashtext('last one'))`);
          const [{ left_over: left }] = await manager.query('select left_over from stock');
          if (left > 0) await manager.query('update stock set left_over = $1', [left - 1]);
          return left > 0 ? 'sold' : 'sold out';
        }),
      );
      const buyers = Array.from({ length: 5 }, () => test.post(`/${place}/${buy}`, randomUUID()));
      const bodies = (await Promise.all(buyers)).map(({ body }) => String(body));
      expect(bodies.filter((body) => body === 'sold')).toHaveLength(3);
    });

    it('runs outside what no transaction block takes', async () => {
      const { status } = await run(place, async () => {
        const service = test.app.get(IdempotencyService);
        await service.outsideTransaction(() => test.instances[0]!.dataSource.query('vacuum effects'));
      });
      expect(status).toBe(201);
    });
  });

  it.each(PLACES)('tells a worker of a row of a %s when it is there', async (place) => {
    const seen: Promise<number>[] = [];
    const { status } = await run(place, async (dataSource) => {
      await dataSource.getRepository(Effect).insert({ label: 'for the worker' });
      const service = test.app.get(IdempotencyService);
      service.afterCommit(() => void seen.push(service.outsideTransaction(() => dataSource.manager.count(Effect))));
    });
    expect(status).toBe(201);
    expect(await Promise.all(seen)).toEqual([1]);
  });

  it.each(PLACES)('is named by the errors of statements that cannot run in a %s', async (place) => {
    await test.dataSource.query(`create or replace procedure committing() language plpgsql as $$ begin commit; end $$`);
    for (const sql of ['vacuum effects', 'create index concurrently on effects (label)', 'call committing()']) {
      let met: Error | undefined;
      await run(place, (dataSource) =>
        dataSource.query(sql).catch((error: Error) => {
          met = error;
          throw error;
        }),
      );
      expect(met?.message).toContain('IdempotencyService.outsideTransaction()');
      expect(met?.stack).toContain('IdempotencyService.outsideTransaction()'); // that is what is logged
    }
  });
});
