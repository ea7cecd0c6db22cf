import { describe, expect, it } from '@jest/globals';
import { TransactionRolledBackError } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { add, effectsOf, Expected, rowsOf } from './helpers.js';
import { claim, dataSource, effects, inRequest, observer, withTransactions } from './lab.js';

withTransactions();

describe('streams', () => {
  const all = () =>
    effectsOf().createQueryBuilder('effect').select('effect.label', 'label').orderBy('effect.id').stream();

  it('leave the connection to other statements between two reads', async () => {
    await observer.query('insert into effects (label) select n::text from generate_series(1, 250) n');
    const request = await claim();
    await request.run(async () => {
      let rows = 0;
      for await (const { label } of (await all()) as unknown as AsyncIterable<{ label: string }>) {
        rows++;
        await add(`copy of ${label}`);
        if (rows % 100 === 0) await dataSource.transaction((manager) => manager.save(Effect, { label: 'hundred' }));
      }
      expect(rows).toBe(250);
    });
    await request.commit();
    expect(await effects()).toHaveLength(502);
  });

  it('may be given up, or never be read', async () => {
    await observer.query('insert into effects (label) select n::text from generate_series(1, 250) n');
    await inRequest(async () => {
      for await (const row of await all()) {
        expect(row).toEqual({ label: '1' });
        break;
      }
      await all();
      await dataSource
        .transaction(async () => {
          await all();
          throw new Expected();
        })
        .catch(() => undefined);
      await add('after');
    });
    expect((await effects()).at(-1)).toBe('after');
  });

  it('end with the transaction they were opened in', async () => {
    await observer.query('insert into effects (label) select n::text from generate_series(1, 250) n');
    const [committed, rolledBack] = [await claim(), await claim()];
    const late = [await committed.run(() => all()), await rolledBack.run(() => all())];
    const undone = await committed.run(async () => {
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      const stream = await runner.stream('select label from effects');
      await runner.rollbackTransaction();
      await expect(rowsOf(stream)).rejects.toThrow(TransactionRolledBackError);
      return add('after');
    });
    expect(undone.label).toBe('after');
    await committed.commit();
    await rolledBack.rollBack();
    await expect(rowsOf(late[0])).rejects.toThrow('was to be read within the transaction of its idempotent request');
    await expect(rowsOf(late[1])).rejects.toThrow(TransactionRolledBackError);
  });

  it('tell of their end and of their errors', async () => {
    const told: string[] = [];
    await inRequest(async () => {
      const runner = dataSource.createQueryRunner();
      await rowsOf(await runner.stream('select 1', [], () => told.push('end')));
      await dataSource
        .transaction(async ({ queryRunner }) => {
          await rowsOf(
            await queryRunner!.stream('select 1 / (2 - n) from generate_series(1, 3) n', [], undefined, () =>
              told.push('error'),
            ),
          );
        })
        .catch((error: Error) => told.push(error.message));
    });
    expect(told).toEqual(['end', 'error', 'division by zero']);
  });
});
