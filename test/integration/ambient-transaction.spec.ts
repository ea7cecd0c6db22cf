import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { array, assert, asyncProperty, boolean, constant, constantFrom, letrec, oneof, record } from 'fast-check';
import { Client, type Pool, type PoolClient } from 'pg';
import {
  Column,
  DataSource,
  DeleteDateColumn,
  Entity,
  type EntityManager,
  type EntitySubscriberInterface,
  EventSubscriber,
  type InsertEvent,
  ManyToOne,
  OneToMany,
  PrimaryGeneratedColumn,
  type QueryRunner,
  type Relation,
  Repository,
  Tree,
  TreeChildren,
  TreeParent,
  TransactionNotStartedError,
} from 'typeorm';
import { deferred } from '../../src/deferred.js';
import { TransactionRolledBackError } from '../../src/index.js';
import { AmbientTransaction } from '../../src/persistence/ambient-transaction.js';
import { AmbientTransactions } from '../../src/persistence/ambient-transactions.js';
import type { DatabaseConnection } from '../../src/persistence/database-connection.js';
import { KeyStore, TransactionEndedByHandlerError } from '../../src/persistence/key-store.js';
import { OwnedTransaction } from '../../src/persistence/owned-transaction.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import { waitFor } from '../support/wait-for.js';

@Entity('authors')
class Author {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  name!: string;

  @Column('int', { default: 0 })
  prizes!: number;

  @OneToMany(() => Book, (book) => book.author, { cascade: true })
  books!: Book[];

  @OneToMany(() => Letter, (letter) => letter.author)
  letters!: Promise<Letter[]>;

  @DeleteDateColumn()
  deletedAt!: Date | null;
}

@Entity('books')
class Book {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  title!: string;

  @ManyToOne(() => Author, (author) => author.books)
  author!: Relation<Author>;
}

@Entity('letters')
class Letter {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  text!: string;

  @ManyToOne(() => Author, (author) => author.letters)
  author!: Promise<Author>;
}

@Entity('shelves')
@Tree('closure-table')
class Shelf {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  name!: string;

  @TreeChildren()
  children!: Shelf[];

  @TreeParent()
  parent!: Shelf | null;
}

/** Writes beside the statement that it is told of, by what TypeORM hands it. */
@EventSubscriber()
class Auditor implements EntitySubscriberInterface<Effect> {
  listenTo() {
    return Effect;
  }

  async afterInsert({ entity, manager, queryRunner }: InsertEvent<Effect>): Promise<void> {
    switch (entity.label) {
      case 'audited by the manager':
        await manager.insert(Effect, { label: 'audit' });
        break;
      case 'audited by the runner':
        await queryRunner.query(`insert into effects (label) values ('audit')`);
        break;
      case 'audited in a transaction':
        await manager.transaction((nested) => nested.insert(Effect, { label: 'audit' }));
        break;
    }
  }

  async afterQuery({ query, manager }: { query: string; manager: EntityManager }): Promise<void> {
    if (query.startsWith('select /* watched */')) {
      await manager.transaction((nested) => nested.query(`insert into effects (label) values ('watched')`));
    }
  }
}

/** The way NestJS' documentation makes them: with a manager of its own. */
class EffectRepository extends Repository<Effect> {
  constructor(dataSource: DataSource) {
    super(Effect, dataSource.createEntityManager());
  }

  add(label: string): Promise<Effect> {
    return this.save({ label });
  }

  inTransaction(work: (manager: EntityManager) => Promise<void>): Promise<void> {
    return this.manager.transaction(work);
  }
}

const ENTITIES = [Effect, Author, Book, Letter, Shelf];

let database: TestDatabase;
let dataSource: DataSource;
let transactions: AmbientTransactions;
let custom: EffectRepository;
/** Sees what is committed. */
let observer: Client;
const store = new KeyStore();

/** Statements that were handed to a client which had not answered the one before: what pg 9 will refuse. */
let overlaps: string[];
/** Connections that were taken out of the pool. */
let taken: number;
/** Requests that a failed test has left open. */
const open = new Set<Request>();

beforeAll(async () => {
  database = await createTestDatabase();
  dataSource = new DataSource({
    type: 'postgres',
    url: database.url,
    entities: ENTITIES,
    subscribers: [Auditor],
    cache: true,
    synchronize: true,
    poolSize: 4,
  });
  custom = new EffectRepository(dataSource); // before the library is there, as a provider may be
  await dataSource.initialize();
  watch(poolOf(dataSource));
  transactions = new AmbientTransactions(dataSource);
  observer = new Client(database.url);
  await observer.connect();
});

beforeEach(async () => {
  overlaps = [];
  await observer.query('truncate effects, authors, books, letters, shelves, shelves_closure, idempotency_keys');
  await observer.query(`insert into authors (name) values ('Ada')`);
  taken = 0;
});

afterEach(async () => {
  for (const request of open) request.abort();
  await expectNothingLeft();
});

async function expectNothingLeft(): Promise<void> {
  expect(overlaps).toEqual([]);
  const pool = poolOf(dataSource);
  await waitFor(() => pool.idleCount === pool.totalCount, { what: 'all connections to be back' });
  await waitFor(async () => (await busySessions()) === 0, { what: 'all sessions to be outside of a transaction' });
}

async function busySessions(): Promise<number> {
  const { rowCount } = await observer.query(
    `select from pg_stat_activity where datname = $1 and state <> 'idle' and pid <> pg_backend_pid()`,
    [database.name],
  );
  return rowCount!;
}

afterAll(async () => {
  await observer.end();
  await dataSource.destroy();
  await database.drop();
});

function poolOf({ driver }: DataSource): Pool {
  return (driver as unknown as { master: Pool }).master;
}

function watch(pool: Pool): void {
  const seen = new WeakSet<PoolClient>();
  pool.on('acquire', (client) => {
    taken++;
    if (seen.has(client)) return;
    seen.add(client);
    const query = client.query.bind(client) as (...given: unknown[]) => unknown;
    const { _queryQueue: queue } = client as unknown as { _queryQueue: unknown[] };
    Object.assign(client, {
      query: (...given: unknown[]) => {
        const { _activeQuery: running } = client as unknown as { _activeQuery?: unknown };
        if (running || queue.length > 0) overlaps.push(String(given[0]));
        return query(...given);
      },
    });
  });
}

interface Request {
  transaction: AmbientTransaction;
  run<T>(work: () => T): T;
  commit(): Promise<void>;
  rollBack(): Promise<void>;
  /** As a time limit does: whatever the connection is busy with. */
  abort(): void;
}

/** What ClaimService and Claim do, without the response around it. */
async function claim(using: AmbientTransactions = transactions, isolation?: 'SERIALIZABLE'): Promise<Request> {
  const connection: DatabaseConnection = await using.connect();
  const identity = { scope: '', key: randomUUID() };
  const claimId = randomUUID();
  const outcome = await store.claim(connection.client, {
    ...identity,
    claimId,
    transactionTimeoutMs: 60_000,
    isolation,
    savepoint: false,
  });
  expect(outcome).toEqual({ kind: 'claimed' });
  const owned = new OwnedTransaction(connection, store);
  const transaction = new AmbientTransaction(using, owned, isolation ?? 'READ COMMITTED');
  const response = { status: 201, headers: [], body: Buffer.from('ok'), bodyBytes: 2 };
  const request = { fingerprint: Buffer.alloc(32), fingerprintVersion: 1, method: 'POST', path: '/', ttlMs: 60_000 };
  const over = (): void => void open.delete(claimed);
  const claimed: Request = {
    transaction,
    run: (work) => transaction.run(work),
    commit: async () => {
      const answer = await transaction.commit((client) =>
        store.record(client, { request: { ...identity, claimId, ...request }, response }, false),
      );
      over();
      if (answer.kind !== 'committed') throw answer.error;
    },
    rollBack: async () => {
      await transaction.rollBack();
      over();
    },
    abort: () => {
      transaction.abort(new Error('aborted'));
      over();
    },
  };
  open.add(claimed);
  return claimed;
}

/** One request from the claim to the COMMIT. */
async function inRequest<T>(work: (request: Request) => Promise<T>): Promise<T> {
  const request = await claim();
  let result: T;
  try {
    result = await request.run(() => work(request));
  } catch (error) {
    await request.rollBack();
    throw error;
  }
  await request.commit();
  return result;
}

async function effects(): Promise<string[]> {
  const { rows } = await observer.query<{ label: string }>('select label from effects order by id');
  return rows.map(({ label }) => label);
}

async function keys(): Promise<number> {
  const { rows } = await observer.query<{ count: number }>('select count(*)::int as count from idempotency_keys');
  return rows[0]!.count;
}

/** All that the paths write, as anybody else sees it. */
async function everything(): Promise<unknown> {
  const { rows } = await observer.query<{ all: unknown }>(`select jsonb_build_object(
    'effects', (select jsonb_agg(label order by id) from effects),
    'authors', (select jsonb_agg(jsonb_build_array(name, prizes, deleted_at is not null) order by id)
                from (select *, "deletedAt" as deleted_at from authors) a),
    'books', (select jsonb_agg(title order by id) from books),
    'letters', (select jsonb_agg(text order by id) from letters),
    'shelves', (select jsonb_agg(name order by id) from shelves),
    'closure', (select count(*) from shelves_closure)) as all`);
  return rows[0]!.all;
}

const effectsOf = () => dataSource.getRepository(Effect);
const authors = () => dataSource.getRepository(Author);
const add = (label: string) => effectsOf().save({ label });
const ada = () => authors().findOneByOrFail({ name: 'Ada' });

/** Lets other flows go on, for about as long as a few statements take. */
async function severalTurns(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) {
    await observer.query('select 1');
    await nextTurn();
  }
}

class Expected extends Error {}

async function manually(work: (runner: QueryRunner) => Promise<void>, prepare?: 'connect'): Promise<void> {
  const runner = dataSource.createQueryRunner();
  if (prepare === 'connect') await runner.connect();
  await runner.startTransaction();
  try {
    await work(runner);
    await runner.commitTransaction();
  } catch (error) {
    await runner.rollbackTransaction();
    throw error;
  } finally {
    await runner.release();
  }
}

const WRITES: [path: string, work: (request: Request) => Promise<unknown>][] = [
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
  ['the sql tag', () => dataSource.sql`insert into effects (label) values (${'x'})`],
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
      await runner[Symbol.asyncDispose]();
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

describe('within a request', () => {
  it.each(WRITES)('%s writes in its transaction', async (_, work) => {
    const before = await everything();
    const failing = await claim();
    taken = 0;
    await failing.run(() => work(failing));
    expect(taken).toBe(0);
    expect(await everything()).toEqual(before);
    await failing.rollBack();
    expect(await everything()).toEqual(before);

    const succeeding = await claim();
    await succeeding.run(() => work(succeeding));
    expect(await everything()).toEqual(before);
    await succeeding.commit();
    expect(await everything()).not.toEqual(before);
    expect(await keys()).toBe(1);
  });

  it('clears a table in its transaction', async () => {
    await observer.query(`insert into letters (text) values ('Dear')`);
    const request = await claim();
    await request.run(() => dataSource.getRepository(Letter).clear());
    await request.rollBack();
    expect((await observer.query('select text from letters')).rows).toEqual([{ text: 'Dear' }]);
  });
});

const READS: [path: string, read: (request: Request) => Promise<unknown>, result: unknown][] = [
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

async function rowsOf(stream: AsyncIterable<unknown> | unknown): Promise<unknown[]> {
  const rows: unknown[] = [];
  for await (const row of stream as AsyncIterable<unknown>) rows.push(row);
  return rows;
}

describe('within a request', () => {
  it.each(READS)('%s sees what is not committed', async (_, read, result) => {
    const request = await claim();
    taken = 0;
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

describe('two of them', () => {
  it('requests at once never share a transaction', async () => {
    const requests = await Promise.all(['a', 'b', 'c'].map(async (label) => ({ label, request: await claim() })));
    await Promise.all(
      requests.map(({ label, request }) =>
        request.run(async () => {
          for (let turn = 1; turn <= 5; turn++) {
            await Promise.all([
              add(`${label}${turn}`),
              dataSource.transaction(async () => void (await add(`${label}${turn}'`))),
            ]);
            const seen = await effectsOf().find();
            expect(seen.every((effect) => effect.label.startsWith(label))).toBe(true);
            expect(seen).toHaveLength(2 * turn);
          }
        }),
      ),
    );
    const [a, b, c] = requests.map(({ request }) => request);
    await Promise.all([a!.commit(), b!.rollBack(), c!.commit()]);
    const labels = await effects();
    expect(labels.filter((label) => label.startsWith('a'))).toHaveLength(10);
    expect(labels.filter((label) => label.startsWith('c'))).toHaveLength(10);
    expect(labels).toHaveLength(20);
  });

  it('DataSources: only the one that was made aware joins', async () => {
    const other = await new DataSource({ type: 'postgres', url: database.url, entities: ENTITIES }).initialize();
    try {
      const request = await claim();
      await request.run(async () => {
        await add('in');
        await other.getRepository(Effect).save({ label: 'out' });
        await other.transaction((manager) => manager.save(Effect, { label: 'out, too' }));
        await other.createEntityManager().transaction((manager) => manager.save(Effect, { label: 'out as well' }));
        await expect(
          other.transaction(async (manager) => {
            await manager.save(Effect, { label: 'undone' });
            await add('in the other');
            throw new Expected();
          }),
        ).rejects.toThrow(Expected);
      });
      expect(await effects()).toEqual(['out', 'out, too', 'out as well']);
      await request.commit();
      expect((await effects()).toSorted()).toEqual(['in', 'in the other', 'out', 'out as well', 'out, too']);
    } finally {
      await other.destroy();
    }
  });

  it('work outside has connections of its own, and survives', async () => {
    const request = await claim();
    await request.run(async () => {
      await add('in');
      await transactions.outside(async () => {
        await add('out');
        await dataSource.transaction((manager) => manager.save(Effect, { label: 'out, too' }));
        await custom.inTransaction(async (manager) => void (await manager.save(Effect, { label: 'out as well' })));
      });
      expect((await effectsOf().find()).length).toBe(4);
    });
    await request.rollBack();
    expect(await effects()).toEqual(['out', 'out, too', 'out as well']);
  });
});

describe('nested transactions', () => {
  it('undo only themselves', async () => {
    await inRequest(async () => {
      await add('before');
      await expect(
        dataSource.transaction(async (manager) => {
          await manager.save(Effect, { label: 'undone' });
          await add('undone by the repository');
          await dataSource.transaction((inner) => inner.save(Effect, { label: 'undone with it' }));
          throw new Expected();
        }),
      ).rejects.toThrow(Expected);
      expect((await effectsOf().find()).map(({ label }) => label)).toEqual(['before']);
      await add('after');
    });
    expect(await effects()).toEqual(['before', 'after']);
  });

  it('survive a statement that failed in them', async () => {
    await inRequest(async () => {
      await expect(
        dataSource.transaction(async (manager) => {
          await manager.save(Effect, { label: 'undone' });
          await manager.query('select 1 / 0');
        }),
      ).rejects.toThrow('division by zero');
      await add('after');
    });
    expect(await effects()).toEqual(['after']);
  });

  it('do not hide that a statement failed in them', async () => {
    await inRequest(async () => {
      await expect(
        dataSource.transaction(async (manager) => {
          await manager.query('select 1 / 0').catch(() => undefined);
        }),
      ).rejects.toThrow('current transaction is aborted');
      await add('after');
    });
    expect(await effects()).toEqual(['after']);
  });

  it('take the managers of those around them along', async () => {
    await inRequest(async ({ transaction }) => {
      const outermost = transaction.createManager();
      await outermost.transaction(async (outer) => {
        await outer
          .transaction(async (inner) => {
            await outermost.save(Effect, { label: 'undone' });
            await outer.save(Effect, { label: 'undone, too' });
            await inner.save(Effect, { label: 'undone as well' });
            throw new Expected();
          })
          .catch(() => undefined);
        await outermost.save(Effect, { label: 'kept' });
      });
    });
    expect(await effects()).toEqual(['kept']);
  });

  it.each(['dataSource', 'a custom repository'])('of %s run one after another side by side', async (of) => {
    const begin = (work: (manager: EntityManager) => Promise<void>): Promise<void> =>
      of === 'dataSource' ? dataSource.transaction(work) : custom.inTransaction(work);
    let inside = 0;
    const outcomes = await inRequest(() =>
      Promise.allSettled(
        ['a', 'b', 'c', 'd'].map((label, index) =>
          begin(async (manager) => {
            expect(++inside).toBe(1);
            await manager.save(Effect, { label });
            await severalTurns();
            await add(`${label}'`);
            inside--;
            if (index % 2 === 0) throw new Expected();
          }),
        ),
      ),
    );
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'rejected', 'fulfilled']);
    expect(await effects()).toEqual(['b', "b'", 'd', "d'"]);
  });

  it('keep out of them what runs beside them', async () => {
    const held = deferred();
    await inRequest(async () => {
      const failing = custom.inTransaction(async (manager) => {
        await manager.save(Effect, { label: 'undone' });
        await held.promise;
        throw new Expected();
      });
      await severalTurns();
      const beside = [
        add('a'),
        dataSource.query(`insert into effects (label) values ('b')`),
        manually(async () => void (await add('c'))),
      ];
      await severalTurns();
      held.resolve();
      await expect(failing).rejects.toThrow(Expected);
      await Promise.all(beside);
    });
    expect((await effects()).toSorted()).toEqual(['a', 'b', 'c']);
  });

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
        await runner[Symbol.asyncDispose]();
      });
      const { queryRunner } = transaction.createManager();
      await expect(queryRunner!.rollbackTransaction()).rejects.toThrow(TransactionNotStartedError);
      await expect(queryRunner!.commitTransaction()).rejects.toThrow(TransactionNotStartedError);
      await queryRunner!.release();
      await dataSource.createQueryRunner()[Symbol.asyncDispose]();
    });
    expect(await effects()).toEqual(['around']);
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

describe('parallel work', () => {
  it('is all done, except what failed', async () => {
    const outcomes = await inRequest(() =>
      Promise.allSettled([
        ...range(20).map((number) => add(`save ${number}`)),
        ...range(5).map((number) =>
          dataSource.transaction(async (manager) => {
            await Promise.all([
              manager.save(Effect, { label: `transaction ${number}` }),
              add(`transaction ${number}'`),
            ]);
            if (number === 2) throw new Expected();
            if (number === 4) await manager.query('select 1 / 0');
          }),
        ),
        ...range(3).map((number) =>
          manually(async ({ manager }) => {
            await manager.save(Effect, { label: `runner ${number}` });
            await nextTurn();
            await add(`runner ${number}'`);
            if (number === 2) throw new Expected();
          }),
        ),
        ...range(4).map((number) => dataSource.query('insert into effects (label) values ($1)', [`query ${number}`])),
        dataSource.transaction((manager) => manager.query('this is no SQL')),
        custom.inTransaction(async () => {
          await add('custom 1');
          throw new Expected();
        }),
        custom.inTransaction(async () => void (await add('custom 2'))),
      ]),
    );
    expect(outcomes.filter(({ status }) => status === 'rejected')).toHaveLength(5);
    expect((await effects()).toSorted()).toEqual(
      [
        ...range(20).map((number) => `save ${number}`),
        ...[1, 3, 5].flatMap((number) => [`transaction ${number}`, `transaction ${number}'`]),
        ...[1, 3].flatMap((number) => [`runner ${number}`, `runner ${number}'`]),
        ...range(4).map((number) => `query ${number}`),
        'custom 2',
      ].toSorted(),
    );
  });

  type Program =
    | { kind: 'save'; by: 'repository' | 'manager' }
    | { kind: 'sequence' | 'parallel'; of: Program[] }
    | { kind: 'transaction' | 'custom' | 'runner' | 'connected runner'; of: Program; fails: boolean };

  const programs = letrec<{ program: Program }>((tie) => ({
    program: oneof(
      { maxDepth: 4, depthIdentifier: 'program' },
      record({ kind: constant('save' as const), by: constantFrom('repository' as const, 'manager' as const) }),
      record({
        kind: constantFrom('sequence' as const, 'parallel' as const),
        of: array(tie('program'), { minLength: 1, maxLength: 4, depthIdentifier: 'program' }),
      }),
      record({
        kind: constantFrom('transaction' as const, 'custom' as const, 'runner' as const, 'connected runner' as const),
        of: tie('program'),
        fails: boolean(),
      }),
    ),
  })).program;

  it('in whatever arrangement leaves exactly what was not undone', async () => {
    await assert(
      asyncProperty(programs, async (program) => {
        let saved = 0;
        const expected = new Set<string>();

        /** Answers with the labels that its part of the program keeps. */
        const execute = async (part: Program, manager: EntityManager): Promise<string[]> => {
          switch (part.kind) {
            case 'save': {
              const label = String(++saved);
              await (part.by === 'manager' ? manager.save(Effect, { label }) : add(label));
              return [label];
            }
            case 'sequence': {
              const kept: string[] = [];
              for (const each of part.of) kept.push(...(await execute(each, manager)));
              return kept;
            }
            case 'parallel':
              return (await Promise.all(part.of.map((each) => execute(each, manager)))).flat();
            default: {
              let kept: string[] = [];
              const work = async (nested: EntityManager): Promise<void> => {
                kept = await execute(part.of, nested);
                if (part.fails) throw new Expected();
              };
              const outcome = {
                transaction: () => dataSource.transaction(work),
                custom: () => custom.inTransaction(work),
                runner: () => manually((runner) => work(runner.manager)),
                'connected runner': () => manually((runner) => work(runner.manager), 'connect'),
              }[part.kind]();
              await outcome.catch((error: unknown) => {
                if (!(error instanceof Expected)) throw error;
                kept = [];
              });
              return kept;
            }
          }
        };

        await observer.query('truncate effects');
        await inRequest(async ({ transaction }) => {
          for (const label of await execute(program, transaction.createManager())) expected.add(label);
        });
        expect((await effects()).toSorted()).toEqual([...expected].toSorted());
      }),
      { numRuns: 150 },
    );
  });
});

describe('streams', () => {
  const all = () =>
    effectsOf().createQueryBuilder('effect').select('effect.label', 'label').orderBy('effect.id').stream();

  it('leave the connection to other statements between two reads', async () => {
    await observer.query('insert into effects (label) select n::text from generate_series(1, 250) n');
    const request = await claim();
    await request.run(async () => {
      let rows = 0;
      for await (const { label } of (await all()) as unknown as AsyncIterable<{ label: string }>) {
        rows++;
        await add(`copy of ${label}`);
        if (rows % 100 === 0) await dataSource.transaction((manager) => manager.save(Effect, { label: 'hundred' }));
      }
      expect(rows).toBe(250);
    });
    await request.commit();
    expect(await effects()).toHaveLength(502);
  });

  it('may be given up, or never be read', async () => {
    await observer.query('insert into effects (label) select n::text from generate_series(1, 250) n');
    await inRequest(async () => {
      for await (const row of await all()) {
        expect(row).toEqual({ label: '1' });
        break;
      }
      await all();
      await dataSource
        .transaction(async () => {
          await all();
          throw new Expected();
        })
        .catch(() => undefined);
      await add('after');
    });
    expect((await effects()).at(-1)).toBe('after');
  });

  it('end with the transaction they were opened in', async () => {
    await observer.query('insert into effects (label) select n::text from generate_series(1, 250) n');
    const [committed, rolledBack] = [await claim(), await claim()];
    const late = [await committed.run(() => all()), await rolledBack.run(() => all())];
    const undone = await committed.run(async () => {
      const runner = dataSource.createQueryRunner();
      await runner.startTransaction();
      const stream = await runner.stream('select label from effects');
      await runner.rollbackTransaction();
      await expect(rowsOf(stream)).rejects.toThrow(TransactionRolledBackError);
      return add('after');
    });
    expect(undone.label).toBe('after');
    await committed.commit();
    await rolledBack.rollBack();
    await expect(rowsOf(late[0])).rejects.toThrow('was to be read within the transaction of its idempotent request');
    await expect(rowsOf(late[1])).rejects.toThrow(TransactionRolledBackError);
  });

  it('tell of their end and of their errors', async () => {
    const told: string[] = [];
    await inRequest(async () => {
      const runner = dataSource.createQueryRunner();
      await rowsOf(await runner.stream('select 1', [], () => told.push('end')));
      await dataSource
        .transaction(async ({ queryRunner }) => {
          await rowsOf(
            await queryRunner!.stream('select 1 / (2 - n) from generate_series(1, 3) n', [], undefined, () =>
              told.push('error'),
            ),
          );
        })
        .catch((error: Error) => told.push(error.message));
    });
    expect(told).toEqual(['end', 'error', 'division by zero']);
  });
});

describe('raw transaction control', () => {
  it.each([
    'begin',
    'BEGIN ISOLATION LEVEL SERIALIZABLE',
    ' start transaction',
    'COMMIT',
    'commit and chain',
    'end',
    'abort',
    'rollback',
    'ROLLBACK WORK',
    "prepare transaction 'x'",
    '/* by hand */ commit',
    '/* a /* b */ */ -- c\n ; commit',
    '-- by hand\ncommit',
  ])('is refused: %s', async (sql) => {
    await inRequest(async ({ transaction }) => {
      await add('kept');
      const runner = dataSource.createQueryRunner();
      for (const query of [
        () => dataSource.query(sql),
        () => transaction.createManager().query(sql),
        () => runner.query(sql),
        () => dataSource.transaction((manager) => manager.query(sql)),
      ]) {
        await expect(query()).rejects.toThrow('would end the transaction of this idempotent request');
      }
    });
    expect(await effects()).toEqual(['kept']);
  });

  it('is not seen where there is none', async () => {
    await inRequest(async () => {
      await dataSource.query('savepoint mine');
      await dataSource.query(`insert into effects (label) values ('commit'), ('/* rollback')`);
      await dataSource.query('rollback to savepoint mine');
      await dataSource.query('ROLLBACK WORK TO mine');
      await dataSource.query('release mine');
      await dataSource.query(`/* commit */ insert into effects (label) values ('begin')`);
    });
    expect(await effects()).toEqual(['begin']);
  });

  it.each(['select 1; commit', 'select 1; /* */ COMMIT; begin', 'select 1; end', `do $$ begin null; end $$; rollback`])(
    'is refused behind another statement, too: %s',
    async (sql) => {
      const request = await claim();
      await expect(request.run(() => dataSource.query(sql))).rejects.toThrow('would end the transaction');
      await request.rollBack();
    },
  );

  it('is told from the body of a block', async () => {
    const request = await claim();
    await request.run(() => dataSource.query(`do $$ begin perform 1; end $$`));
    await request.commit();
    expect(await keys()).toBe(1);
  });

  it('that was hidden from the library is found at the record', async () => {
    const request = await claim();
    await request.run(async () => {
      const client = (await dataSource.createQueryRunner().connect()) as PoolClient;
      await client.query('commit; begin');
    });
    await expect(request.commit()).rejects.toThrow(TransactionEndedByHandlerError);
    expect(await keys()).toBe(0);
  });
});

/** What is done by code that a request has left running; `kept` was made when it was open. */
const LATE: [what: string, work: (kept: Kept) => Promise<unknown>][] = [
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

interface Kept {
  manager: EntityManager;
  repository: Repository<Effect>;
  nested: EntityManager;
  runner: QueryRunner;
}

async function keep({ transaction }: Request): Promise<Kept> {
  const manager = transaction.createManager();
  let nested!: EntityManager;
  await dataSource.transaction(async (its) => void (nested = its));
  return { manager, repository: manager.getRepository(Effect), nested, runner: dataSource.createQueryRunner() };
}

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
    expect(await queued).toBeInstanceOf(TransactionRolledBackError);
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
    taken = 0;
    const letters = await second.run(async () => {
      await dataSource.query(`insert into letters (text, "authorId") values ('uncommitted', $1)`, [found.id]);
      return (await found.letters).map(({ text }) => text);
    });
    expect(letters).toEqual(['uncommitted']);
    expect(taken).toBe(0);
    await second.rollBack();
  });
});

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

function range(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index + 1);
}
