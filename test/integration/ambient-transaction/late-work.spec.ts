import { describe, expect, it } from '@jest/globals';
import { deferred } from '../../../src/util/deferred.js';
import { TransactionRolledBackError } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { Author } from './entities.js';
import { add, manually, severalTurns } from './helpers.js';
import { claim, countAnew, custom, dataSource, effects, open, taken, withTransactions } from './lab.js';
import { keep, LATE } from './late-work.js';

withTransactions();

describe('what a request has left running', () => {
  it.each(LATE)('uses an ordinary connection once it has committed: %s', async (_, work) => {
    const request = await claim();
    const ended = deferred();
    const late = request.run(async () => {
      const kept = await keep(request);
      return ended.promise.then(() => work(kept));
    });
    await request.run(() => add('in time'));
    await request.commit();
    const next = await claim(); // has got the connection of the first
    ended.resolve();
    await late;
    await next.rollBack();
    expect(new Set(await effects())).toEqual(new Set(['in time', 'late']));
  });

  it.each(LATE)('is refused once it was rolled back: %s', async (_, work) => {
    const request = await claim();
    const ended = deferred();
    const late = request.run(async () => {
      const kept = await keep(request);
      return ended.promise.then(() => work(kept));
    });
    await request.run(() => add('in time'));
    await request.rollBack();
    const next = await claim();
    ended.resolve();
    await expect(late).rejects.toThrow(TransactionRolledBackError);
    await next.commit();
    expect(await effects()).toEqual([]);
  });

  it('is refused once it was rolled back, also where its flow is not known', async () => {
    const request = await claim();
    const { manager, nested, runner } = await request.run(() => keep(request));
    await request.rollBack();
    await expect(manager.save(Effect, { label: 'late' })).rejects.toThrow(TransactionRolledBackError);
    await expect(nested.transaction(() => Promise.resolve())).rejects.toThrow(TransactionRolledBackError);
    await expect(runner.connect()).rejects.toThrow(TransactionRolledBackError);
    await expect(runner.startTransaction()).rejects.toThrow(TransactionRolledBackError);
    expect(await effects()).toEqual([]);
  });

  it('is told so by a promise', async () => {
    const request = await claim();
    await request.rollBack();
    await request.run(async () => {
      const refusal = dataSource.manager.transaction(() => Promise.resolve());
      await expect(refusal).rejects.toThrow(TransactionRolledBackError);
    });
  });

  it('does not hang when it was rolled back with a transaction open that nobody ends', async () => {
    const request = await claim();
    const refused = request.run(async () => {
      const { manager } = await keep(request);
      const runner = dataSource.createQueryRunner();
      await runner.connect();
      await runner.startTransaction();
      const queued = manager.save(Effect, { label: 'behind the open one' });
      return { late: () => manager.save(Effect, { label: 'late' }), queued: queued.catch((error: unknown) => error) };
    });
    const { late, queued } = await refused;
    await request.rollBack();
    await queued; // refused, or let through before and undone with the rest: it depends on where it was by then
    await expect(late()).rejects.toThrow(TransactionRolledBackError);
    expect(await effects()).toEqual([]);
  });

  it('comes too late for a nested transaction while COMMIT is under way, and gets one of its own', async () => {
    const request = await claim();
    const [sent, go] = [deferred(), deferred()];
    const committed = request.transaction.commit(async (client) => {
      sent.resolve();
      await go.promise;
      await client.query('commit');
    });
    await sent.promise;
    const late = request.run(() => [
      dataSource.transaction((manager) => manager.save(Effect, { label: 'a' })),
      custom.inTransaction(async (manager) => void (await manager.save(Effect, { label: 'b' }))),
      manually(async ({ manager }) => void (await manager.save(Effect, { label: 'c' }))),
      manually(async (runner) => void (await runner.query(`insert into effects (label) values ('d')`))),
      add('e'),
    ]);
    await severalTurns();
    go.resolve();
    await committed;
    await Promise.all(late);
    open.delete(request);
    expect((await effects()).toSorted()).toEqual(['a', 'b', 'c', 'd', 'e']);
  });

  it('leaves nothing that stands in the way of another request', async () => {
    const first = await claim();
    const found = await first.run(() => first.transaction.createManager().findOneByOrFail(Author, { name: 'Ada' }));
    await first.commit();

    const second = await claim();
    countAnew();
    const letters = await second.run(async () => {
      await dataSource.query(`insert into letters (text, "authorId") values ('uncommitted', $1)`, [found.id]);
      return (await found.letters).map(({ text }) => text);
    });
    expect(letters).toEqual(['uncommitted']);
    expect(taken).toBe(0);
    await second.rollBack();
  });
});
