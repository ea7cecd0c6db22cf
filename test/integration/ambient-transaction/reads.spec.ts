import { EventEmitter } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { AmbientTransactions } from '../../../src/postgres/ambient/ambient-transactions.js';
import { Effect } from '../../support/effect.entity.js';
import { Book, ENTITIES } from './entities.js';
import { ada, add, authors, effectsOf, severalTurns } from './helpers.js';
import {
  claim,
  countAnew,
  database,
  dataSource,
  effects,
  inRequest,
  observer,
  taken,
  withTransactions,
} from './lab.js';
import { READS } from './reads.js';

withTransactions();

describe('within a request', () => {
  it.each(READS)('%s sees what is not committed', async (_, read, result) => {
    const request = await claim();
    countAnew();
    const seen = await request.run(async () => {
      await observer.query('select 1');
      await add('own');
      await authors().update({ name: 'Ada' }, { prizes: 4 });
      await dataSource.getRepository(Book).save([
        { title: 'One', author: await ada() },
        { title: 'Two', author: await ada() },
      ]);
      await dataSource.query(`insert into letters (text, "authorId") select 'Dear', id from authors`);
      return read(request);
    });
    expect(seen).toEqual(result);
    expect(taken).toBe(0);
    await request.rollBack();
    expect(await effects()).toEqual([]);
    expect((await observer.query('select * from "query-result-cache"')).rows).toEqual([]);
  });

  it('services join however many turns of the event loop below it they are', async () => {
    const emitter = new EventEmitter();
    const heard: Promise<unknown>[] = [];
    emitter.on('order', (label: string) => heard.push(nextTurn().then(() => add(label))));
    const later = (queue: (work: () => void) => void, label: string): Promise<unknown> =>
      new Promise((resolve, reject) => queue(() => add(label).then(resolve, reject)));
    async function* several(): AsyncGenerator<string> {
      for (const label of ['f', 'g']) {
        await add(label);
        yield label;
      }
    }

    const request = await claim();
    await request.run(async () => {
      await nextTurn();
      await Promise.resolve()
        .then(() => nextTurn())
        .then(() => add('a'));
      await later((work) => setImmediate(work), 'b');
      await later((work) => process.nextTick(work), 'c');
      await later((work) => setTimeout(work, 0), 'd');
      emitter.emit('order', 'e');
      await Promise.all(heard);
      for await (const label of several()) await add(`${label}, too`);
      await Promise.race([later((work) => setTimeout(work, 0), 'h'), nextTurn()]);
      await severalTurns();
    });
    expect(await effects()).toEqual([]);
    await request.commit();
    expect(await effects()).toEqual(['a', 'b', 'c', 'd', 'e', 'f', 'f, too', 'g', 'g, too', 'h']);
  });

  it('runners keep what they are told to themselves', async () => {
    await inRequest(async () => {
      const [one, other] = [dataSource.createQueryRunner(), dataSource.createQueryRunner()];
      one.data['user'] = 'Ada';
      expect(other.data).toEqual({});
      expect(one.manager.queryRunner).toBe(one);
      await effectsOf().save({ label: 'x' }, { data: { user: 'Bob' } });
      expect(dataSource.createQueryRunner().data).toEqual({});
    });
  });

  it('uses the primary, and the DataSource has its own ways back afterwards', async () => {
    const other = await new DataSource({ type: 'postgres', url: database.url, entities: ENTITIES }).initialize();
    try {
      const { createQueryRunner } = other;
      const made = new AmbientTransactions(other);
      const request = await claim(made);
      await request.run(() => other.getRepository(Effect).save({ label: 'x' }));
      await request.commit();

      const next = await claim(made);
      made.uninstall();
      expect(other.createQueryRunner).toBe(createQueryRunner);
      await next.run(async () => {
        await other.getRepository(Effect).save({ label: 'on its own' });
        await other.transaction((manager) => manager.save(Effect, { label: 'on its own, too' }));
      });
      await next.rollBack();
      expect(await effects()).toEqual(['x', 'on its own', 'on its own, too']);
    } finally {
      await other.destroy();
    }
  });
});
