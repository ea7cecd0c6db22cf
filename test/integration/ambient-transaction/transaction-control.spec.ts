import { describe, expect, it } from '@jest/globals';
import { TransactionEndedByHandlerError } from '../../../src/postgres/statements/store-errors.js';
import { behindTheBack } from '../../support/behind-the-back.js';
import { add } from './helpers.js';
import { claim, dataSource, effects, inRequest, keys, withTransactions } from './lab.js';

withTransactions();

describe('raw transaction control', () => {
  it.each([
    'begin',
    'BEGIN ISOLATION LEVEL SERIALIZABLE',
    ' start transaction',
    'COMMIT',
    'commit and chain',
    'end',
    'abort',
    'rollback',
    'ROLLBACK WORK',
    "prepare transaction 'x'",
    '/* by hand */ commit',
    '/* a /* b */ */ -- c\n ; commit',
    '-- by hand\ncommit',
  ])('is refused: %s', async (sql) => {
    await inRequest(async ({ transaction }) => {
      await add('kept');
      const runner = dataSource.createQueryRunner();
      for (const query of [
        () => dataSource.query(sql),
        () => transaction.createManager().query(sql),
        () => runner.query(sql),
        () => dataSource.transaction((manager) => manager.query(sql)),
      ]) {
        await expect(query()).rejects.toThrow('would end the transaction of this idempotent request');
      }
    });
    expect(await effects()).toEqual(['kept']);
  });

  it('is not seen where there is none', async () => {
    await inRequest(async () => {
      await dataSource.query('savepoint mine');
      await dataSource.query(`insert into effects (label) values ('commit'), ('/* rollback')`);
      await dataSource.query('rollback to savepoint mine');
      await dataSource.query('ROLLBACK WORK TO mine');
      await dataSource.query('release mine');
      await dataSource.query(`/* commit */ insert into effects (label) values ('begin')`);
    });
    expect(await effects()).toEqual(['begin']);
  });

  it.each(['select 1; commit', 'select 1; /* */ COMMIT; begin', 'select 1; end', `do $$ begin null; end $$; rollback`])(
    'is refused behind another statement, too: %s',
    async (sql) => {
      const request = await claim();
      await expect(request.run(() => dataSource.query(sql))).rejects.toThrow('would end the transaction');
      await request.rollBack();
    },
  );

  it('is told from the body of a block', async () => {
    const request = await claim();
    await request.run(() => dataSource.query(`do $$ begin perform 1; end $$`));
    await request.commit();
    expect(await keys()).toBe(1);
  });

  it('that was hidden from the library is found at the record', async () => {
    const request = await claim();
    await request.run(() => behindTheBack(dataSource, 'commit; begin'));
    await expect(request.commit()).rejects.toThrow(TransactionEndedByHandlerError);
    expect(await keys()).toBe(0);
  });
});
