import { describe, expect, it } from '@jest/globals';
import { type PoolClient, Query } from 'pg';
import Cursor from 'pg-cursor';
import type { QueryRunner } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { add } from './helpers.js';
import { claim, dataSource, effects, inRequest, keys, withTransactions } from './lab.js';

withTransactions();

async function lentClient(): Promise<{ runner: QueryRunner; client: PoolClient }> {
  const runner = dataSource.createQueryRunner();
  return { runner, client: (await runner.connect()) as PoolClient };
}

const insert = (client: PoolClient, label: string): Promise<unknown> =>
  client.query('insert into effects (label) values ($1)', [label]);

/** In which kysely, drizzle, knex, pg-promise and people begin one, and end it. */
const SPELLINGS = [
  ['begin', 'commit', 'rollback'],
  ['BEGIN;', 'COMMIT;', 'ROLLBACK'],
  ['start transaction isolation level read committed', 'end', 'abort'],
  ['begin isolation level read committed read write not deferrable', 'commit work', 'rollback transaction'],
  ['/* by hand */ BEGIN TRANSACTION READ WRITE, ISOLATION LEVEL READ UNCOMMITTED', 'END TRANSACTION', 'ABORT WORK'],
] as const;

describe("a transaction by pg's own client", () => {
  it.each(SPELLINGS)('is a savepoint: %s … %s or %s', async (begin, commit, rollback) => {
    await inRequest(async () => {
      const { client } = await lentClient();
      await insert(client, 'before');
      await client.query(begin);
      await insert(client, 'kept');
      expect(await client.query(commit)).toMatchObject({ command: 'COMMIT', rows: [] });
      await client.query(begin);
      await insert(client, 'undone');
      expect(await client.query(rollback)).toMatchObject({ command: 'ROLLBACK', rows: [] });
      await insert(client, 'after');
    });
    expect(await effects()).toEqual(['before', 'kept', 'after']);
    expect(await keys()).toBe(1);
  });

  it('is undone with the request', async () => {
    const request = await claim();
    await request.run(async () => {
      const { client } = await lentClient();
      await client.query('begin');
      await insert(client, 'undone');
      await client.query('commit');
    });
    await request.rollBack();
    expect(await effects()).toEqual([]);
  });

  it('takes statements that were handed in without waiting, in their order', async () => {
    await inRequest(async () => {
      const { client } = await lentClient();
      const cursor = new Cursor<{ label: string }>('select label from effects');
      const results = [
        client.query('begin'),
        insert(client, 'kept'),
        client.query(cursor).read(10),
        client.query('commit'),
        client.query('begin'),
        insert(client, 'undone'),
        client.query('rollback'),
        insert(client, 'after'),
      ];
      expect((await Promise.all(results))[2]).toEqual([{ label: 'kept' }]);
      await cursor.close();
    });
    expect(await effects()).toEqual(['kept', 'after']);
  });

  it('keeps apart from what others do beside it', async () => {
    await inRequest(async () => {
      const [one, two] = [await lentClient(), await lentClient()];
      const [isUsed, isBehind] = [deferred(), deferred()];
      const undone = async (): Promise<void> => {
        await one.client.query('begin');
        await insert(one.client, 'undone');
        isUsed.resolve();
        await isBehind.promise;
        await one.client.query('rollback');
      };
      const kept = async (): Promise<void> => {
        await isUsed.promise;
        const beside = insert(two.client, 'beside');
        isBehind.resolve();
        await beside;
        await two.client.query('begin');
        await insert(two.client, 'beside, in a transaction');
        await two.client.query('commit');
      };
      await Promise.all([undone(), kept()]);
    });
    expect(await effects()).toEqual(['beside', 'beside, in a transaction']);
  });

  it('has repositories that its code uses join it', async () => {
    await inRequest(async () => {
      const { client } = await lentClient();
      await client.query('begin');
      await add('undone');
      await insert(client, 'undone, too');
      await client.query('rollback');
      await dataSource.transaction(async () => {
        await client.query('begin');
        await insert(client, 'kept');
        await client.query('commit');
      });
    });
    expect(await effects()).toEqual(['kept']);
  });

  it('takes savepoints of its own, and a statement that fails', async () => {
    await inRequest(async () => {
      const { client } = await lentClient();
      await client.query('begin');
      await insert(client, 'kept');
      await client.query('savepoint sp1');
      await client.query('insert into nowhere values (1)').catch(() => undefined);
      await client.query('rollback to savepoint sp1');
      await client.query('commit');
      await client.query('begin');
      await insert(client, 'undone');
      await expect(client.query('insert into nowhere values (1)')).rejects.toThrow('nowhere');
      await expect(insert(client, 'undone')).rejects.toThrow('current transaction is aborted');
      expect(await client.query('commit')).toMatchObject({ command: 'ROLLBACK' }); // as PostgreSQL does
      await insert(client, 'after');
    });
    expect(await effects()).toEqual(['kept', 'after']);
  });

  it('may be for reading only, and the request goes on writing', async () => {
    await inRequest(async () => {
      const { client } = await lentClient();
      await insert(client, 'before');
      await client.query('begin read only');
      expect((await client.query('select label from effects')).rows).toEqual([{ label: 'before' }]);
      await client.query('commit');
      await client.query('start transaction read only');
      await expect(insert(client, 'never')).rejects.toThrow('read-only transaction');
      await client.query('rollback');
      await insert(client, 'after');
    });
    expect(await effects()).toEqual(['before', 'after']);
  });

  it('may be begun twice, as PostgreSQL takes it', async () => {
    await inRequest(async () => {
      const { client } = await lentClient();
      await client.query('begin');
      await client.query('begin');
      await insert(client, 'undone');
      await client.query('rollback');
      await insert(client, 'kept');
    });
    expect(await effects()).toEqual(['kept']);
  });

  it('calls back after COMMIT with what was kept, and only then', async () => {
    const told: string[] = [];
    const request = await claim();
    await request.run(async () => {
      const { client } = await lentClient();
      for (const end of ['commit', 'rollback']) {
        await client.query('begin');
        request.transaction.afterCommit(() => void told.push(end));
        await client.query(end);
      }
    });
    await request.commit();
    await request.transaction.runAfterCommit();
    expect(told).toEqual(['commit']);
  });

  it('that its runner leaves open is undone with the release', async () => {
    await inRequest(async () => {
      const { runner, client } = await lentClient();
      await client.query('begin');
      await insert(client, 'undone');
      await runner.release();
    });
    expect(await effects()).toEqual([]);
  });

  it('tells of both ends in the way it was asked', async () => {
    const told: unknown[] = [];
    await inRequest(async () => {
      const { client } = await lentClient();
      for (const sql of ['begin', 'rollback']) {
        await new Promise<void>((resolve) => {
          client.query(sql, (error, { command }) => resolve(void told.push(error ?? command)));
        });
      }
      for (const text of ['begin', 'rollback']) {
        await new Promise((resolve) => client.query(new Query(text)).once('end', resolve));
        told.push(text);
      }
      await client.query({ text: 'begin' });
      await client.query({ text: 'rollback' });
    });
    expect(told).toEqual(['BEGIN', 'ROLLBACK', 'begin', 'rollback']);
  });

  it.each([
    ['begin isolation level serializable', "set @Idempotent({ isolation: 'SERIALIZABLE' }) on the route"],
    ['commit', 'would end the transaction of this idempotent request'],
    ['rollback', 'would end the transaction of this idempotent request'],
    ['begin; insert into nowhere values (1)', 'would end the transaction of this idempotent request'],
    ['commit and chain', 'would end the transaction of this idempotent request'],
  ])('is refused where it cannot be one: %s', async (sql, message) => {
    await inRequest(async () => {
      const { client } = await lentClient();
      await insert(client, 'kept');
      await expect(client.query(sql)).rejects.toThrow(message);
      await expect(client.query(new Cursor(sql)).read(1)).rejects.toThrow('would end the transaction');
    });
    expect(await effects()).toEqual(['kept']);
  });
});
