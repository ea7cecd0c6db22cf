import { Effect } from '../../support/effect.entity.js';
import { Author } from './entities.js';
import { ada, authors, effectsOf, rowsOf } from './helpers.js';
import { custom, dataSource, type Request } from './lab.js';

export const READS: [path: string, read: (request: Request) => Promise<unknown>, result: unknown][] = [
  ['repository.find', async () => (await effectsOf().find()).map(({ label }) => label), ['own']],
  ['repository.findBy', async () => (await effectsOf().findBy({ label: 'own' })).length, 1],
  ['repository.findOneByOrFail', async () => (await effectsOf().findOneByOrFail({ label: 'own' })).label, 'own'],
  ['repository.findAndCount', async () => (await effectsOf().findAndCount())[1], 1],
  ['repository.count', () => effectsOf().count(), 1],
  ['repository.existsBy', () => effectsOf().existsBy({ label: 'own' }), true],
  ['repository.sum', () => authors().sum('prizes', {}), 4],
  [
    'a find in a transaction of its own',
    () =>
      effectsOf()
        .find({ transaction: true })
        .then((all) => all.length),
    1,
  ],
  [
    'a find with a lock',
    () =>
      effectsOf()
        .find({ lock: { mode: 'pessimistic_write' } })
        .then((all) => all.length),
    1,
  ],
  ['relations', async () => (await authors().find({ relations: { books: true } }))[0]!.books.length, 2],
  [
    'relations by queries of their own',
    async () =>
      (await authors().find({ relations: { books: true }, relationLoadStrategy: 'query' }))[0]!.books.map(
        ({ title }) => title,
      ),
    ['One', 'Two'],
  ],
  [
    'a page of a join',
    async () => (await authors().find({ relations: { books: true }, take: 1 })).map(({ books }) => books.length),
    [2],
  ],
  ['a lazy relation', async () => (await (await ada()).letters).map(({ text }) => text), ['Dear']],
  [
    "a lazy relation of what the context's manager has found",
    async ({ transaction }) =>
      (await (await transaction.createManager().findOneByOrFail(Author, { name: 'Ada' })).letters).length,
    1,
  ],
  ['a query builder', () => effectsOf().createQueryBuilder('effect').getCount(), 1],
  [
    'raw rows',
    () => effectsOf().createQueryBuilder('effect').select('effect.label', 'label').getRawMany(),
    [{ label: 'own' }],
  ],
  [
    'a stream',
    async () => rowsOf(await effectsOf().createQueryBuilder('effect').select('label').stream()),
    [{ label: 'own' }],
  ],
  [
    "a runner's stream",
    async () =>
      rowsOf(await dataSource.createQueryRunner().stream('select label from effects where label = $1', ['own'])),
    [{ label: 'own' }],
  ],
  [
    'a stream of what is written',
    async () =>
      rowsOf(
        await dataSource
          .createQueryRunner()
          .stream(`update effects set label = 'new' returning label`)
          .catch(() => []),
      ),
    [{ label: 'new' }],
  ],
  ['a query that is cached', () => effectsOf().createQueryBuilder('effect').cache(60_000).getCount(), 1],
  ['manager.find', () => dataSource.manager.find(Effect).then((all) => all.length), 1],
  ['a manager of its own', () => dataSource.createEntityManager().count(Effect), 1],
  ['a custom repository', () => custom.count(), 1],
  [
    'a query of a replica',
    () => dataSource.createQueryRunner('slave').query('select label from effects'),
    [{ label: 'own' }],
  ],
];
