import { describe, expect, it } from '@jest/globals';
import { deferred } from '../../../src/util/deferred.js';
import { TransactionRolledBackError } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { waitFor } from '../../support/wait-for.js';
import { add, Expected, severalTurns } from './helpers.js';
import {
  claim,
  database,
  dataSource,
  effects,
  inRequest,
  keys,
  observer,
  transactions,
  withTransactions,
} from './lab.js';

withTransactions();

describe('nested transactions', () => {
  it('that failed refuse what their callbacks have left running', async () => {
    const failed = deferred();
    const outcomes = await inRequest(async ({ transaction }) => {
      const outermost = transaction.createManager();
      let left: Promise<unknown[]> | undefined;
      await dataSource
        .transaction(async (manager) => {
          left = failed.promise.then(async () => {
            const late = [
              () => manager.save(Effect, { label: 'late' }),
              () => add('late'),
              () => outermost.save(Effect, { label: 'late' }),
              () => manager.transaction((inner) => inner.save(Effect, { label: 'late' })),
              () => dataSource.transaction((inner) => inner.save(Effect, { label: 'late' })),
            ];
            const results: unknown[] = [];
            for (const work of late)
              results.push(
                await work().then(
                  () => 'written',
                  (error: unknown) => error,
                ),
              );
            return results;
          });
          throw new Expected();
        })
        .catch(() => undefined);
      failed.resolve();
      return left;
    });
    expect(outcomes).toHaveLength(5);
    for (const outcome of outcomes!) {
      expect(outcome).toBeInstanceOf(TransactionRolledBackError);
      expect((outcome as Error).message).toContain('The nested transaction that this work belongs to was rolled back');
    }
    expect(await effects()).toEqual([]);
  });

  it('that succeeded leave what still runs to the one around', async () => {
    const done = deferred();
    await inRequest(async () => {
      let left: Promise<unknown> | undefined;
      await dataSource.transaction(async (manager) => {
        left = done.promise.then(async () => {
          await manager.save(Effect, { label: 'a' });
          return add('b');
        });
      });
      done.resolve();
      await left;
    });
    expect(await effects()).toEqual(['a', 'b']);
  });

  it('that end leave what comes while they do to the one around, in its turn', async () => {
    await inRequest(async () => {
      const left: Promise<unknown>[] = [];
      const beside = [];
      for (let round = 0; round < 20; round++) {
        beside.push(
          dataSource.transaction((manager) => {
            // Comes when the callback has returned and the release of its savepoint is under way.
            setImmediate(() => left.push(manager.query('select 1'), add('late')));
            return Promise.resolve();
          }),
          add('beside'),
        );
      }
      await Promise.all(beside);
      await Promise.all(left);
    });
    expect((await effects()).toSorted()).toEqual([
      ...Array.from({ length: 20 }, () => 'beside'),
      ...Array.from({ length: 20 }, () => 'late'),
    ]);
  });

  it('that fail do not wait for one inside them that nobody ends', async () => {
    await inRequest(async () => {
      const runner = dataSource.createQueryRunner();
      await expect(
        dataSource.transaction(async () => {
          await runner.startTransaction();
          await runner.manager.save(Effect, { label: 'undone' });
          throw new Expected();
        }),
      ).rejects.toThrow(Expected);
      await add('after');
      await expect(runner.commitTransaction()).rejects.toThrow(TransactionRolledBackError);
      await runner.rollbackTransaction();
    });
    expect(await effects()).toEqual(['after']);
  });

  it('that fail let the running statement of one inside them end, and begin no other', async () => {
    let begunLate = false;
    const isSleeping = async (): Promise<boolean> =>
      (
        await observer.query(`select from pg_stat_activity where wait_event = 'PgSleep' and datname = $1`, [
          database.name,
        ])
      ).rowCount === 1;
    const inner = await inRequest(async () => {
      const started: Promise<unknown>[] = [];
      await expect(
        dataSource.transaction(async (manager) => {
          started.push(
            manager.transaction(async (first) => {
              await first.query(`insert into effects select -1, 'undone' from pg_sleep(0.2)`);
              await first.save(Effect, { label: 'refused' });
            }),
            manager.transaction(() => {
              begunLate = true;
              return Promise.resolve();
            }),
          );
          await waitFor(isSleeping, { what: 'the statement to run' });
          throw new Expected();
        }),
      ).rejects.toThrow(Expected);
      await add('after');
      return Promise.allSettled(started);
    });
    expect(inner.map((outcome) => (outcome as PromiseRejectedResult).reason as unknown)).toEqual([
      expect.any(TransactionRolledBackError),
      expect.any(TransactionRolledBackError),
    ]);
    expect(begunLate).toBe(false);
    expect(await effects()).toEqual(['after']);
  });

  it('are not committed before the request, whose end waits for them', async () => {
    const held = deferred();
    const request = await claim();
    const left = request.run(() =>
      dataSource.transaction(async (manager) => {
        await held.promise;
        await manager.save(Effect, { label: 'slow' });
      }),
    );
    const committed = request.commit();
    await severalTurns();
    expect(await keys()).toBe(0);
    held.resolve();
    await left;
    await committed;
    expect(await effects()).toEqual(['slow']);
    expect(await keys()).toBe(1);
  });

  it('may ask for the isolation they have got already, and for no more', async () => {
    await inRequest(async () => {
      await dataSource.transaction('READ COMMITTED', () => add('a'));
      await dataSource.transaction('READ UNCOMMITTED', () => add('b'));
      const refusal = /isolation level SERIALIZABLE cannot be opened inside the READ COMMITTED transaction/;
      await expect(dataSource.transaction('SERIALIZABLE', () => add('c'))).rejects.toThrow(refusal);
      const runner = dataSource.createQueryRunner();
      await expect(runner.startTransaction('SERIALIZABLE')).rejects.toThrow(refusal);
      await runner.release();
    });
    expect(await effects()).toEqual(['a', 'b']);

    const request = await claim(transactions, 'SERIALIZABLE');
    const level = await request.run(() =>
      dataSource.transaction('SERIALIZABLE', (manager) =>
        manager.query<{ level: string }[]>(`select current_setting('transaction_isolation') as level`),
      ),
    );
    expect(level).toEqual([{ level: 'serializable' }]);
    await request.rollBack();
  });
});
