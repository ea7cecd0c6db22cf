import { describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { Effect } from '../../support/effect.entity.js';
import { ENTITIES } from './entities.js';
import { add, effectsOf, Expected } from './helpers.js';
import { claim, custom, database, dataSource, effects, transactions, withTransactions } from './lab.js';

withTransactions();

describe('two of them', () => {
  it('requests at once never share a transaction', async () => {
    const requests = await Promise.all(['a', 'b', 'c'].map(async (label) => ({ label, request: await claim() })));
    await Promise.all(
      requests.map(({ label, request }) =>
        request.run(async () => {
          for (let turn = 1; turn <= 5; turn++) {
            await Promise.all([
              add(`${label}${turn}`),
              dataSource.transaction(async () => void (await add(`${label}${turn}'`))),
            ]);
            const seen = await effectsOf().find();
            expect(seen.every((effect) => effect.label.startsWith(label))).toBe(true);
            expect(seen).toHaveLength(2 * turn);
          }
        }),
      ),
    );
    const [a, b, c] = requests.map(({ request }) => request);
    await Promise.all([a!.commit(), b!.rollBack(), c!.commit()]);
    const labels = await effects();
    expect(labels.filter((label) => label.startsWith('a'))).toHaveLength(10);
    expect(labels.filter((label) => label.startsWith('c'))).toHaveLength(10);
    expect(labels).toHaveLength(20);
  });

  it('DataSources: only the one that was made aware joins', async () => {
    const other = await new DataSource({ type: 'postgres', url: database.url, entities: ENTITIES }).initialize();
    try {
      const request = await claim();
      await request.run(async () => {
        await add('in');
        await other.getRepository(Effect).save({ label: 'out' });
        await other.transaction((manager) => manager.save(Effect, { label: 'out, too' }));
        await other.createEntityManager().transaction((manager) => manager.save(Effect, { label: 'out as well' }));
        await expect(
          other.transaction(async (manager) => {
            await manager.save(Effect, { label: 'undone' });
            await add('in the other');
            throw new Expected();
          }),
        ).rejects.toThrow(Expected);
      });
      expect(await effects()).toEqual(['out', 'out, too', 'out as well']);
      await request.commit();
      expect((await effects()).toSorted()).toEqual(['in', 'in the other', 'out', 'out as well', 'out, too']);
    } finally {
      await other.destroy();
    }
  });

  it('work outside has connections of its own, and survives', async () => {
    const request = await claim();
    await request.run(async () => {
      await add('in');
      await transactions.outside(async () => {
        await add('out');
        await dataSource.transaction((manager) => manager.save(Effect, { label: 'out, too' }));
        await custom.inTransaction(async (manager) => void (await manager.save(Effect, { label: 'out as well' })));
      });
      expect((await effectsOf().find()).length).toBe(4);
    });
    await request.rollBack();
    expect(await effects()).toEqual(['out', 'out, too', 'out as well']);
  });
});
