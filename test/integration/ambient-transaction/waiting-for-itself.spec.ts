import { describe, expect, it } from '@jest/globals';
import type { QueryRunner } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { TransactionRolledBackError } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { add, severalTurns } from './helpers.js';
import { claim, dataSource, effects, withTransactions } from './lab.js';

withTransactions();

describe('a request that waits for itself', () => {
  const begun = async (): Promise<QueryRunner> => {
    const runner = dataSource.createQueryRunner();
    await runner.connect();
    await runner.startTransaction();
    return runner;
  };

  it.each<[pattern: string, work: (aboutToHang: () => void) => Promise<unknown>]>([
    [
      'two runners that end in the order in which they began',
      async (aboutToHang) => {
        const [first, second] = [await begun(), dataSource.createQueryRunner()];
        await first.manager.save(Effect, { label: 'x' });
        await second.startTransaction();
        aboutToHang();
        await first.commitTransaction();
        await second.commitTransaction();
      },
    ],
    [
      'a repository beside a transaction that a helper has begun and nobody has used',
      async (aboutToHang) => {
        const runner = await begun();
        aboutToHang();
        await add('x');
        await runner.commitTransaction();
      },
    ],
    [
      'a nested transaction that awaits what its surroundings have still to do',
      async (aboutToHang) => {
        const go = deferred();
        const around = go.promise.then(() => add('x'));
        await dataSource.transaction(async () => {
          go.resolve();
          aboutToHang();
          await around;
        });
      },
    ],
    [
      'a generator that has begun a transaction and uses a repository',
      async (aboutToHang) => {
        async function* generator(): AsyncGenerator<number> {
          const runner = await begun();
          yield 1;
          aboutToHang();
          await add('x');
          await runner.commitTransaction();
        }
        for await (const number of generator()) expect(number).toBe(1);
      },
    ],
  ])('can be ended from outside: %s', async (_, work) => {
    const request = await claim();
    const atIt = deferred();
    const working = request.run(() => work(atIt.resolve));
    let settled = false;
    const outcome = working
      .then(
        () => 'done',
        (error: unknown) => error,
      )
      .finally(() => (settled = true));
    await atIt.promise;
    await severalTurns();
    expect(settled).toBe(false);
    request.abort();
    expect(await outcome).toBeInstanceOf(TransactionRolledBackError);
    expect(await effects()).toEqual([]);
  });

  it('can be ended from outside: a transaction that is never ended', async () => {
    const request = await claim();
    await request.run(() => begun());
    const committed = request.transaction.commit(() => Promise.reject(new Error('must not be reached')));
    await severalTurns();
    request.abort();
    expect(await committed).toEqual({ kind: 'refused', error: new Error('aborted') });
  });
});
