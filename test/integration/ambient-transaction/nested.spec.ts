import { describe, expect, it } from '@jest/globals';
import type { EntityManager } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { Effect } from '../../support/effect.entity.js';
import { add, effectsOf, Expected, manually, severalTurns } from './helpers.js';
import { custom, dataSource, effects, inRequest, withTransactions } from './lab.js';

withTransactions();

describe('nested transactions', () => {
  it('undo only themselves', async () => {
    await inRequest(async () => {
      await add('before');
      await expect(
        dataSource.transaction(async (manager) => {
          await manager.save(Effect, { label: 'undone' });
          await add('undone by the repository');
          await dataSource.transaction((inner) => inner.save(Effect, { label: 'undone with it' }));
          throw new Expected();
        }),
      ).rejects.toThrow(Expected);
      expect((await effectsOf().find()).map(({ label }) => label)).toEqual(['before']);
      await add('after');
    });
    expect(await effects()).toEqual(['before', 'after']);
  });

  it('survive a statement that failed in them', async () => {
    await inRequest(async () => {
      await expect(
        dataSource.transaction(async (manager) => {
          await manager.save(Effect, { label: 'undone' });
          await manager.query('select 1 / 0');
        }),
      ).rejects.toThrow('division by zero');
      await add('after');
    });
    expect(await effects()).toEqual(['after']);
  });

  it('do not hide that a statement failed in them', async () => {
    await inRequest(async () => {
      await expect(
        dataSource.transaction(async (manager) => {
          await manager.query('select 1 / 0').catch(() => undefined);
        }),
      ).rejects.toThrow('current transaction is aborted');
      await add('after');
    });
    expect(await effects()).toEqual(['after']);
  });

  it('take the managers of those around them along', async () => {
    await inRequest(async ({ transaction }) => {
      const outermost = transaction.createManager();
      await outermost.transaction(async (outer) => {
        await outer
          .transaction(async (inner) => {
            await outermost.save(Effect, { label: 'undone' });
            await outer.save(Effect, { label: 'undone, too' });
            await inner.save(Effect, { label: 'undone as well' });
            throw new Expected();
          })
          .catch(() => undefined);
        await outermost.save(Effect, { label: 'kept' });
      });
    });
    expect(await effects()).toEqual(['kept']);
  });

  it.each(['dataSource', 'a custom repository'])('of %s run one after another side by side', async (of) => {
    const begin = (work: (manager: EntityManager) => Promise<void>): Promise<void> =>
      of === 'dataSource' ? dataSource.transaction(work) : custom.inTransaction(work);
    let inside = 0;
    const outcomes = await inRequest(() =>
      Promise.allSettled(
        ['a', 'b', 'c', 'd'].map((label, index) =>
          begin(async (manager) => {
            expect(++inside).toBe(1);
            await manager.save(Effect, { label });
            await severalTurns();
            await add(`${label}'`);
            inside--;
            if (index % 2 === 0) throw new Expected();
          }),
        ),
      ),
    );
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'rejected', 'fulfilled']);
    expect(await effects()).toEqual(['b', "b'", 'd', "d'"]);
  });

  it('keep out of them what runs beside them', async () => {
    const held = deferred();
    await inRequest(async () => {
      const failing = custom.inTransaction(async (manager) => {
        await manager.save(Effect, { label: 'undone' });
        await held.promise;
        throw new Expected();
      });
      await severalTurns();
      const beside = [
        add('a'),
        dataSource.query(`insert into effects (label) values ('b')`),
        manually(async () => void (await add('c'))),
      ];
      await severalTurns();
      held.resolve();
      await expect(failing).rejects.toThrow(Expected);
      await Promise.all(beside);
    });
    expect((await effects()).toSorted()).toEqual(['a', 'b', 'c']);
  });
});
