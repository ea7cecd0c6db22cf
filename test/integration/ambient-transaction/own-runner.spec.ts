import { describe, expect, it } from '@jest/globals';
import { type QueryRunner, TransactionNotStartedError } from 'typeorm';
import { deferred } from '../../../src/util/deferred.js';
import { dispose } from '../../support/dispose.js';
import { Effect } from '../../support/effect.entity.js';
import { add, Expected, manually, severalTurns } from './helpers.js';
import { dataSource, effects, inRequest, withTransactions } from './lab.js';

withTransactions();

describe('a runner with a transaction of its own', () => {
  it('undoes only itself, and takes the repositories of its flow along', async () => {
    await inRequest(async () => {
      await add('before');
      await expect(
        manually(async ({ manager }) => {
          await manager.save(Effect, { label: 'undone' });
          await add('undone, too');
          throw new Expected();
        }),
      ).rejects.toThrow(Expected);
      await add('after');
      await manually(async () => void (await add('kept')));
    });
    expect(await effects()).toEqual(['before', 'after', 'kept']);
  });

  it.each([undefined, 'connect'] as const)('undoes nothing of those beside it (prepared by: %s)', async (prepare) => {
    const undone = deferred();
    await inRequest(async () => {
      const failing = manually(async ({ manager }) => {
        await manager.save(Effect, { label: 'undone' });
        await undone.promise;
        throw new Expected();
      }, prepare);
      const others = [
        manually(async ({ manager }) => void (await manager.save(Effect, { label: 'runner' })), prepare),
        dataSource.transaction((manager) => manager.save(Effect, { label: 'transaction' })),
        add('at once'),
        severalTurns().then(() => add('later')),
      ];
      await severalTurns();
      undone.resolve();
      await expect(failing).rejects.toThrow(Expected);
      await Promise.all(others);
    });
    expect((await effects()).toSorted()).toEqual(['at once', 'later', 'runner', 'transaction']);
  });

  it('is not joined by what its caller does beside it', async () => {
    const undone = deferred();
    await inRequest(async () => {
      const failing = manually(async ({ manager }) => {
        await manager.save(Effect, { label: 'undone' });
        await undone.promise;
        throw new Expected();
      });
      await severalTurns();
      const beside = [add('a'), dataSource.transaction((manager) => manager.save(Effect, { label: 'b' }))];
      await severalTurns();
      undone.resolve();
      await expect(failing).rejects.toThrow(Expected);
      await Promise.all(beside);
    });
    expect((await effects()).toSorted()).toEqual(['a', 'b']);
  });

  it('tells truly whether there is one to end', async () => {
    await inRequest(async () => {
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      expect(runner.isTransactionActive).toBe(true);
      await runner.manager.save(Effect, { label: 'kept' });
      await runner.commitTransaction();
      expect(runner.isTransactionActive).toBe(false);
      await expect(runner.rollbackTransaction()).rejects.toThrow(TransactionNotStartedError);
      await expect(runner.commitTransaction()).rejects.toThrow(TransactionNotStartedError);
      await runner.release();
    });
    expect(await effects()).toEqual(['kept']);
  });

  it('lets an error through that came before there was one', async () => {
    await expect(
      inRequest(async () => {
        const runner = dataSource.createQueryRunner();
        try {
          await runner.connect();
          throw new Expected('original');
        } catch (error) {
          if (runner.isTransactionActive) await runner.rollbackTransaction();
          throw error;
        } finally {
          await runner.release();
        }
      }),
    ).rejects.toThrow('original');
  });

  it('never ends the one it was made in', async () => {
    await inRequest(async ({ transaction }) => {
      await dataSource.transaction(async (manager) => {
        await manager.save(Effect, { label: 'around' });
        const runner = dataSource.createQueryRunner();
        await runner.startTransaction();
        await runner.commitTransaction();
        await expect(runner.commitTransaction()).rejects.toThrow(TransactionNotStartedError);
        await expect(manager.queryRunner!.rollbackTransaction()).rejects.toThrow(TransactionNotStartedError);
        await dispose(runner);
      });
      const { queryRunner } = transaction.createManager();
      await expect(queryRunner!.rollbackTransaction()).rejects.toThrow(TransactionNotStartedError);
      await expect(queryRunner!.commitTransaction()).rejects.toThrow(TransactionNotStartedError);
      await queryRunner!.release();
      await dispose(dataSource.createQueryRunner());
    });
    expect(await effects()).toEqual(['around']);
  });

  it.each([
    ['released', (runner: QueryRunner) => runner.release()],
    ['disposed of', (runner: QueryRunner) => dispose(runner)],
  ])('is no longer to be used once it was %s, as any other of TypeORM', async (_, end) => {
    const use = async (): Promise<unknown[]> => {
      const runner = dataSource.createQueryRunner();
      await runner.query(`insert into effects (label) values ('kept')`);
      const wasReleased = runner.isReleased;
      await end(runner);
      const tries = [
        () => runner.query('select 1'),
        () => runner.stream('select 1'),
        () => runner.startTransaction(),
        () => runner.manager.save(Effect, { label: 'late' }),
        () => runner.manager.transaction(() => Promise.resolve()),
      ];
      const met: unknown[] = [wasReleased, runner.isReleased];
      for (const attempt of tries) {
        met.push(await attempt().then(String, ({ name }: Error) => name));
      }
      await runner.release();
      return met;
    };
    const ordinary = await use();
    expect(await inRequest(use)).toEqual(ordinary);
    expect(ordinary).toEqual([false, true, ...Array(5).fill(expect.stringMatching(/AlreadyReleasedError$/))]);
    expect(await effects()).toEqual(['kept', 'kept']);
  });

  it('is undone when it is released without an end', async () => {
    await inRequest(async () => {
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      await runner.startTransaction();
      await runner.manager.save(Effect, { label: 'undone' });
      await runner.release();
      await add('after');
    });
    expect(await effects()).toEqual(['after']);
  });

  it('can be rolled back after its commit has failed', async () => {
    await inRequest(async () => {
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      await runner.query('select 1 / 0').catch(() => undefined);
      await expect(runner.commitTransaction()).rejects.toThrow('current transaction is aborted');
      await runner.rollbackTransaction();
      await runner.release();
      await add('after');
    });
    expect(await effects()).toEqual(['after']);
  });

  it('may be inside that of another one, made before or after it began', async () => {
    await inRequest(async () => {
      const [outer, inner] = [dataSource.createQueryRunner(), dataSource.createQueryRunner()];
      await outer.startTransaction();
      await inner.startTransaction();
      await outer.manager.save(Effect, { label: 'undone' });
      await inner.manager.save(Effect, { label: 'undone' });
      await inner.rollbackTransaction();
      const last = dataSource.createQueryRunner();
      await last.startTransaction();
      await last.manager.save(Effect, { label: 'inner' });
      await outer.manager.save(Effect, { label: 'outer' });
      await last.commitTransaction();
      await outer.commitTransaction();
      await Promise.all([outer, inner, last].map((runner) => runner.release()));
    });
    expect(await effects()).toEqual(['inner', 'outer']);
  });

  it('that was begun by a helper has the repositories once it was used', async () => {
    await inRequest(async () => {
      const begin = async (): Promise<QueryRunner> => {
        const runner = dataSource.createQueryRunner();
        await runner.connect();
        await runner.startTransaction();
        return runner;
      };
      const runner = await begin();
      await runner.manager.save(Effect, { label: 'by the runner' });
      await add('by the repository');
      await runner.rollbackTransaction();
      await add('after');
    });
    expect(await effects()).toEqual(['after']);
  });
});
