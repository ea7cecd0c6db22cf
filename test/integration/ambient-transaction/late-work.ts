import type { PoolClient } from 'pg';
import { type EntityManager, type QueryRunner, Repository } from 'typeorm';
import { Effect } from '../../support/effect.entity.js';
import { Author } from './entities.js';
import { add, manually, range } from './helpers.js';
import { custom, dataSource, type Request } from './lab.js';

interface Kept {
  manager: EntityManager;
  repository: Repository<Effect>;
  nested: EntityManager;
  runner: QueryRunner;
}

export async function keep({ transaction }: Request): Promise<Kept> {
  const manager = transaction.createManager();
  let nested!: EntityManager;
  await dataSource.transaction(async (its) => void (nested = its));
  return { manager, repository: manager.getRepository(Effect), nested, runner: dataSource.createQueryRunner() };
}

/** What is done by code that a request has left running; `kept` was made when it was open. */
export const LATE: [what: string, work: (kept: Kept) => Promise<unknown>][] = [
  ['a repository', () => add('late')],
  ['a manager', () => dataSource.manager.save(Effect, { label: 'late' })],
  ['a query', () => dataSource.query(`insert into effects (label) values ('late')`)],
  ['a transaction', () => dataSource.transaction((manager) => manager.save(Effect, { label: 'late' }))],
  [
    "a custom repository's transaction",
    () => custom.inTransaction(async (manager) => void (await manager.save(Effect, { label: 'late' }))),
  ],
  ['a runner', async () => manually(async ({ manager }) => void (await manager.save(Effect, { label: 'late' })))],
  ["the context's manager", ({ manager }) => manager.save(Effect, { label: 'late' })],
  [
    "the context's manager, several at once",
    ({ manager }) => Promise.all(range(3).map(() => manager.save(Effect, { label: 'late' }))),
  ],
  [
    "the context's manager, by a cascade",
    ({ manager }) =>
      manager
        .save(Author, { name: 'late', books: [{ title: 'late' }] })
        .then(() => manager.save(Effect, { label: 'late' })),
  ],
  ["a query of the context's manager", ({ manager }) => manager.query(`insert into effects (label) values ('late')`)],
  [
    "a transaction of the context's manager",
    ({ manager }) => manager.transaction((nested) => nested.save(Effect, { label: 'late' })),
  ],
  ["a repository of the context's manager", ({ manager }) => manager.getRepository(Effect).save({ label: 'late' })],
  [
    "a query builder of the context's manager",
    ({ manager }) => manager.getRepository(Effect).createQueryBuilder().insert().values({ label: 'late' }).execute(),
  ],
  [
    "a query builder with useTransaction of the context's manager",
    ({ repository }) =>
      repository.createQueryBuilder().insert().values({ label: 'late' }).useTransaction(true).execute(),
  ],
  ["a nested transaction's manager", ({ nested }) => nested.save(Effect, { label: 'late' })],
  [
    "a transaction of a nested transaction's manager",
    ({ nested }) => nested.transaction((manager) => manager.save(Effect, { label: 'late' })),
  ],
  [
    'a runner that was made before',
    async ({ runner }) => {
      try {
        await runner.query(`insert into effects (label) values ('late')`);
      } finally {
        await runner.release();
      }
    },
  ],
  [
    'the manager of a runner that was made before',
    async ({ runner }) => {
      try {
        await runner.manager.save(Effect, { label: 'late' });
      } finally {
        await runner.release();
      }
    },
  ],
  [
    'a transaction of a runner that was made before',
    async ({ runner }) => {
      try {
        await runner.connect();
        await runner.startTransaction();
        await runner.manager.save(Effect, { label: 'late' });
        await runner.query('select 1');
        await runner.commitTransaction();
      } finally {
        await runner.release();
      }
    },
  ],
  [
    'a client of a runner that was made before',
    async ({ runner }) => {
      try {
        const client = (await runner.connect()) as PoolClient;
        await client.query(`insert into effects (label) values ('late')`);
      } finally {
        await runner.release();
      }
    },
  ],
];
