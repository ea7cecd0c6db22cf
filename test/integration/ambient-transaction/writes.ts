import { expect } from '@jest/globals';
import type { PoolClient } from 'pg';
import { DataSource, Repository } from 'typeorm';
import { dispose } from '../../support/dispose.js';
import { Effect } from '../../support/effect.entity.js';
import { Author, Letter, Shelf } from './entities.js';
import { ada, add, authors, effectsOf, manually } from './helpers.js';
import { custom, dataSource, type Request } from './lab.js';

export const WRITES: [path: string, work: (request: Request) => Promise<unknown>][] = [
  ['repository.save', () => add('x')],
  ['repository.save of many, in chunks', () => effectsOf().save([{ label: 'x' }, { label: 'y' }], { chunk: 1 })],
  ['repository.insert', () => effectsOf().insert({ label: 'x' })],
  ['repository.update', () => authors().update({ name: 'Ada' }, { name: 'Augusta' })],
  ['repository.upsert', () => authors().upsert({ id: 1000, name: 'Bob' }, ['id'])],
  ['repository.delete', () => authors().delete({ name: 'Ada' })],
  ['repository.remove', async () => authors().remove(await ada())],
  ['repository.softDelete', () => authors().softDelete({ name: 'Ada' })],
  ['repository.softRemove', async () => authors().softRemove(await ada())],
  [
    'repository.restore',
    async () => {
      await authors().softDelete({ name: 'Ada' });
      await authors().restore({ name: 'Ada' });
      await authors().update({ name: 'Ada' }, { prizes: 7 });
    },
  ],
  ['repository.increment', () => authors().increment({ name: 'Ada' }, 'prizes', 3)],
  ['repository.decrement', () => authors().decrement({ name: 'Ada' }, 'prizes', 3)],
  ['repository.query', () => effectsOf().query(`insert into effects (label) values ($1)`, ['x'])],
  ['a cascade', () => authors().save({ name: 'Eve', books: [{ title: 'One' }, { title: 'Two' }] })],
  [
    'a lazy relation',
    async () => dataSource.getRepository(Letter).save({ text: 'Dear', author: Promise.resolve(await ada()) }),
  ],
  [
    'a tree repository',
    async () => {
      const shelves = dataSource.getTreeRepository(Shelf);
      const parent = await shelves.save(shelves.create({ name: 'top' }));
      await shelves.save(shelves.create({ name: 'below', parent }));
      expect(await shelves.countDescendants(parent)).toBe(2);
    },
  ],
  ['manager.save', () => dataSource.manager.save(Effect, { label: 'x' })],
  ['manager.insert', () => dataSource.manager.insert(Effect, { label: 'x' })],
  ['a manager of its own', () => dataSource.createEntityManager().save(Effect, { label: 'x' })],
  ['the manager of the context', ({ transaction }) => transaction.createManager().save(Effect, { label: 'x' })],
  [
    'a repository of the context',
    ({ transaction }) => transaction.createManager().getRepository(Effect).save({ label: 'x' }),
  ],
  ['a custom repository', () => custom.add('x')],
  [
    'an extended repository',
    () =>
      effectsOf()
        .extend({
          addTwice(this: Repository<Effect>) {
            return this.save([{ label: 'x' }, { label: 'x' }]);
          },
        })
        .addTwice(),
  ],
  ['manager.withRepository', () => dataSource.manager.withRepository(effectsOf()).save({ label: 'x' })],
  [
    'an insert query builder',
    () => effectsOf().createQueryBuilder().insert().values({ label: 'x' }).returning('*').execute(),
  ],
  ['an update query builder', () => authors().createQueryBuilder().update().set({ prizes: 1 }).execute()],
  ['a delete query builder', () => dataSource.createQueryBuilder().delete().from(Author).execute()],
  ['a soft delete query builder', () => authors().createQueryBuilder().softDelete().execute()],
  [
    'a query builder with useTransaction',
    () => dataSource.createQueryBuilder().insert().into(Effect).values({ label: 'x' }).useTransaction(true).execute(),
  ],
  [
    'a query builder with a runner',
    () =>
      dataSource
        .createQueryBuilder(dataSource.createQueryRunner())
        .insert()
        .into(Effect)
        .values({ label: 'x' })
        .execute(),
  ],
  ['dataSource.query', () => dataSource.query(`insert into effects (label) values ('x')`)],
  // TypeORM 0.3.20 has none.
  ...('sql' in DataSource.prototype
    ? ([['the sql tag', () => dataSource.sql`insert into effects (label) values (${'x'})`]] satisfies typeof WRITES)
    : []),
  ['dataSource.transaction', () => dataSource.transaction((manager) => manager.save(Effect, { label: 'x' }))],
  ['manager.transaction', () => dataSource.manager.transaction((manager) => manager.save(Effect, { label: 'x' }))],
  [
    'the transaction of a manager of its own',
    () => dataSource.createEntityManager().transaction((manager) => manager.save(Effect, { label: 'x' })),
  ],
  [
    'the transaction of a custom repository',
    () =>
      custom.inTransaction(async (manager) => void (await manager.withRepository(effectsOf()).save({ label: 'x' }))),
  ],
  [
    'a transaction in a transaction in a transaction',
    () =>
      dataSource.transaction((one) =>
        one.transaction((two) =>
          two.transaction(async (three) => {
            await one.insert(Effect, { label: '1' });
            await two.insert(Effect, { label: '2' });
            await three.insert(Effect, { label: '3' });
            await add('4');
          }),
        ),
      ),
  ],
  [
    'a runner',
    async () => {
      const runner = dataSource.createQueryRunner();
      await runner.query(`insert into effects (label) values ('x')`);
      await runner.manager.save(Effect, { label: 'y' });
      await runner.release();
    },
  ],
  [
    'a runner with a transaction',
    () =>
      manually(async ({ manager }) => {
        await manager.save(Effect, { label: 'x' });
        await add('y');
      }),
  ],
  [
    'a runner with a transaction in its transaction',
    () =>
      manually(async (runner) => {
        await runner.startTransaction();
        await runner.manager.save(Effect, { label: 'x' });
        await runner.commitTransaction();
        await add('y');
      }),
  ],
  [
    'await using of a runner',
    async () => {
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      await runner.manager.save(Effect, { label: 'x' });
      await dispose(runner, true);
    },
  ],
  [
    'a client that a runner connected',
    async () => {
      const client = (await dataSource.createQueryRunner().connect()) as PoolClient;
      await client.query(`insert into effects (label) values ('x')`);
    },
  ],
  ["a subscriber's manager", () => add('audited by the manager')],
  ["a subscriber's runner", () => add('audited by the runner')],
  ["a subscriber's transaction", () => add('audited in a transaction')],
  ["a query subscriber's transaction", () => dataSource.query('select /* watched */ 1')],
];
