import { describe, expect, it } from '@jest/globals';
import { Letter } from './entities.js';
import { claim, countAnew, dataSource, everything, keys, observer, taken, withTransactions } from './lab.js';
import { WRITES } from './writes.js';

withTransactions();

describe('within a request', () => {
  it.each(WRITES)('%s writes in its transaction', async (_, work) => {
    const before = await everything();
    const failing = await claim();
    countAnew();
    await failing.run(() => work(failing));
    expect(taken).toBe(0);
    expect(await everything()).toEqual(before);
    await failing.rollBack();
    expect(await everything()).toEqual(before);

    const succeeding = await claim();
    await succeeding.run(() => work(succeeding));
    expect(await everything()).toEqual(before);
    await succeeding.commit();
    expect(await everything()).not.toEqual(before);
    expect(await keys()).toBe(1);
  });

  it('clears a table in its transaction', async () => {
    await observer.query(`insert into letters (text) values ('Dear')`);
    const request = await claim();
    await request.run(() => dataSource.getRepository(Letter).clear());
    await request.rollBack();
    expect((await observer.query('select text from letters')).rows).toEqual([{ text: 'Dear' }]);
  });
});
