import { describe, expect, it } from '@jest/globals';
import type { Queryable } from '../../../src/postgres/queryable.js';
import { ExpiredKeys } from '../../../src/postgres/statements/expired-keys.js';
import { StoredKeys } from '../../../src/postgres/statements/stored-keys.js';
import { backDate, complete, pool, rowsOf, session, withAStore } from './lab.js';

withAStore();

describe('find and forget', () => {
  const db: Queryable = { query: async (sql, parameters) => (await pool.query(sql, parameters)).rows };

  it('tell of a key what operators ask for', async () => {
    await complete('k', { path: '/payments?x=1' });
    await complete('large', { body: null, bodyBytes: 5_000_000_000 });
    const found = await new StoredKeys(db).find({ scope: '', key: 'k' });
    expect(found).toEqual({
      scope: '',
      key: 'k',
      state: 'completed',
      method: 'POST',
      path: '/payments?x=1',
      status: 201,
      bodyBytes: 8,
      bodyKept: true,
      createdAt: expect.any(Date),
      expiresAt: expect.any(Date),
    });
    expect(found!.expiresAt!.getTime() - found!.createdAt.getTime()).toBeGreaterThanOrEqual(59_999);
    expect(await new StoredKeys(db).find({ scope: '', key: 'large' })).toMatchObject({
      bodyBytes: 5_000_000_000,
      bodyKept: false,
    });
    expect(await new StoredKeys(db).find({ scope: 'x', key: 'k' })).toBeUndefined();
  });

  it('know the time whatever way the session writes it', async () => {
    await complete('k');
    const client = await session();
    const odd: Queryable = { query: async (sql, parameters) => (await client.query(sql, parameters)).rows };
    const expected = await new StoredKeys(db).find({ scope: '', key: 'k' });
    for (const style of ['SQL, DMY', 'German', 'Postgres, MDY']) {
      await client.query(`set datestyle = '${style}'; set timezone = 'America/St_Johns'`);
      expect(await new StoredKeys(odd).find({ scope: '', key: 'k' })).toEqual(expected);
    }
  });

  it('do not find, but do forget, what has expired', async () => {
    await complete('k');
    await backDate('k');
    expect(await new StoredKeys(db).find({ scope: '', key: 'k' })).toBeUndefined();
    expect(await new ExpiredKeys(db).count()).toBe(1);
    expect(await new StoredKeys(db).forget({ scope: '', key: 'k' })).toBe(true);
    expect(await new StoredKeys(db).forget({ scope: '', key: 'k' })).toBe(false);
    expect(await rowsOf()).toEqual([]);
  });

  it('let the key be used again', async () => {
    await complete('k');
    await new StoredKeys(db).forget({ scope: '', key: 'k' });
    const { claimId } = await complete('k');
    expect((await rowsOf()).map((row) => row['claim_id'])).toEqual([claimId]);
  });
});
