import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import {
  type CallHandler,
  ConflictException,
  Controller,
  type ExecutionContext,
  HttpCode,
  Injectable,
  type NestInterceptor,
  Post,
  Query,
  type Type,
  UseInterceptors,
} from '@nestjs/common';
import {
  getDataSourceToken,
  getEntityManagerToken,
  getRepositoryToken,
  InjectDataSource,
  InjectEntityManager,
  InjectRepository,
  TypeOrmModule,
} from '@nestjs/typeorm';
import { Client, type Pool, type PoolClient } from 'pg';
import { mergeMap, type Observable } from 'rxjs';
import { DataSource, EntityManager, type Repository } from 'typeorm';
import type { PostgresDataSourceOptions } from 'typeorm/driver/postgres/PostgresDataSourceOptions.js';
import { deferred } from '../../src/deferred.js';
import { Idempotent, IdempotencyContext, IdempotencyService, TransactionRolledBackError } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import type { RawResponse } from '../support/raw-http.js';
import {
  ADAPTERS,
  type Adapter,
  createTestApp,
  IS_POOLED,
  type TestApp,
  type TestAppOptions,
} from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

/** What a test tells the handlers, and they it. */
@Injectable()
class Script {
  fails = false;
  /** Where a handler stops until the test lets it go on. */
  private arrival = deferred<number>();
  private departure = deferred();
  late: Promise<unknown> = Promise.resolve();
  seen: unknown;

  async stopAt(pid: number): Promise<void> {
    this.arrival.resolve(pid);
    await this.departure.promise;
  }

  /** The backend of the handler that has stopped. */
  arrived(): Promise<number> {
    return this.arrival.promise;
  }

  goOn(): void {
    this.departure.resolve();
    this.arrival = deferred();
    this.departure = deferred();
  }
}

@Injectable()
class Orders {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  async place(): Promise<void> {
    await this.effects.save({ label: 'order' });
  }
}

@Injectable()
class Outbox {
  constructor(@InjectEntityManager() private readonly manager: EntityManager) {}

  /** In a savepoint. */
  async announce(): Promise<void> {
    await this.manager.transaction((nested) => nested.insert(Effect, { label: 'message' }));
  }
}

@Injectable()
class Books {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  async post(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    await this.dataSource.query(`insert into effects (label) values ('entry')`);
  }

  async backend(): Promise<number> {
    const [{ pid }] = await this.dataSource.query<[{ pid: number }]>('select pg_backend_pid() as pid');
    return pid;
  }
}

/** Between the handler's end and the record: where the response is written. */
@Injectable()
class StopOutside implements NestInterceptor {
  constructor(private readonly script: Script) {}

  intercept(_: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle().pipe(
      mergeMap(async (value: { pid: number }) => {
        await this.script.stopAt(value.pid);
        return { outside: true };
      }),
    );
  }
}

@Controller()
@Idempotent()
class Shop {
  constructor(
    private readonly orders: Orders,
    private readonly outbox: Outbox,
    private readonly books: Books,
    private readonly script: Script,
    private readonly idempotency: IdempotencyService,
    @InjectDataSource() private readonly dataSource: DataSource,
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
  ) {}

  @Post('order')
  async order() {
    await this.orders.place();
    await this.outbox.announce();
    await this.books.post();
    if (this.script.fails) throw new ConflictException('failed as asked');
    return { placed: true };
  }

  @Post('plain')
  async plain() {
    await this.orders.place();
    await this.books.post();
    return { placed: true };
  }

  @Post('server-error')
  @HttpCode(500)
  async serverError() {
    await this.orders.place();
    return { status: 'returned, but not fine' };
  }

  @Post('parallel')
  async parallel() {
    const outcomes = await Promise.allSettled([
      ...Array.from({ length: 10 }, () => this.orders.place()),
      ...Array.from({ length: 3 }, () => this.outbox.announce()),
      ...Array.from({ length: 10 }, () => this.books.post()),
      this.dataSource.transaction(async (manager) => {
        await Promise.all([this.orders.place(), manager.insert(Effect, { label: 'undone' })]);
        throw new Error('undo');
      }),
      this.effects.find(),
      this.idempotency.find('some other key'),
    ]);
    return { rejected: outcomes.filter(({ status }) => status === 'rejected').length };
  }

  @Post('swallow')
  async swallow() {
    await this.orders.place();
    await this.dataSource.query('select 1 / 0').catch(() => undefined);
    return { fine: 'not really' };
  }

  @Post('commit')
  async commit() {
    await this.orders.place();
    const client = (await this.dataSource.createQueryRunner().connect()) as PoolClient; // query() would refuse it
    await client.query('commit');
    return { fine: 'not really' };
  }

  @Post('deallocate')
  async deallocate() {
    await this.orders.place();
    await this.dataSource.query('deallocate all');
    return { placed: true };
  }

  @Post('stop')
  async stop(@Query('then') then: 'write' | 'return') {
    await this.orders.place();
    await this.script.stopAt(await this.books.backend());
    if (then === 'write') await this.orders.place();
    return { placed: true };
  }

  @Post('sleep')
  async sleep() {
    await this.orders.place();
    const pid = await this.books.backend();
    const sleeping = this.dataSource.query('select pg_sleep(60)');
    await this.script.stopAt(pid);
    await sleeping;
  }

  @Post('stop-outside')
  @UseInterceptors(StopOutside)
  @Idempotent()
  async stopOutside() {
    await this.orders.place();
    return { pid: await this.books.backend() };
  }

  @Post('impatient')
  @Idempotent({ timeoutMs: 100 })
  async impatient() {
    await this.orders.place();
    if (this.script.fails) await deferred().promise;
    return { placed: true };
  }

  @Post('leave-running')
  async leaveRunning(@IdempotencyContext() context: IdempotencyContext) {
    await this.orders.place();
    const { manager } = context;
    const go = this.script.arrived();
    this.script.late = go.then(() =>
      Promise.allSettled([
        this.orders.place(),
        this.outbox.announce(),
        this.books.post(),
        manager.save(Effect, { label: 'by the manager' }),
        manager.transaction((nested) => nested.save(Effect, { label: 'by its transaction' })),
      ]),
    );
    if (this.script.fails) throw new ConflictException('failed as asked');
    return { placed: true };
  }

  @Post('settings')
  async settings() {
    const [settings] = await this.dataSource.query<Record<string, string>[]>(
      `select current_setting('synchronous_commit') as "synchronousCommit",
         current_setting('transaction_isolation') as isolation, current_setting('bytea_output') as "byteaOutput"`,
    );
    await this.orders.place();
    await this.outbox.announce();
    this.script.seen = settings;
    return { bytes: '\u0000\u00ff\\' };
  }
}

/** Ordinary code that waits for itself in a request, since there is one connection; the limit ends it. */
@Controller()
class Hanging {
  constructor(
    private readonly script: Script,
    @InjectDataSource() private readonly dataSource: DataSource,
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
  ) {}

  private async begin() {
    const runner = this.dataSource.createQueryRunner();
    await runner.connect();
    await runner.startTransaction();
    return runner;
  }

  @Post('hang')
  @Idempotent({ timeoutMs: 300 })
  async hang(@Query('how') how: string) {
    await this.effects.save({ label: how });
    if (!this.script.fails) return { how };
    switch (how) {
      case 'never ended': {
        const runner = await this.begin();
        await runner.manager.save(Effect, { label: how });
        return { how };
      }
      case 'ended in the order of their begin': {
        const [first, second] = [await this.begin(), this.dataSource.createQueryRunner()];
        await first.manager.save(Effect, { label: how });
        await second.startTransaction();
        await first.commitTransaction();
        await second.commitTransaction();
        return { how };
      }
      case 'begun by a helper, and unused': {
        const runner = await this.begin();
        await this.effects.save({ label: how });
        await runner.commitTransaction();
        return { how };
      }
      case 'awaited from within': {
        const go = deferred();
        const around = go.promise.then(() => this.effects.save({ label: how }));
        await this.dataSource.transaction(async () => {
          go.resolve();
          await around;
        });
        return { how };
      }
    }
    throw new Error(`no such pattern: ${how}`);
  }
}

const PROVIDERS = [Orders, Outbox, Books, StopOutside];

let started: TestApp[];
let database: TestDatabase;
/** Sees what is committed, and the sessions of the application. */
let observer: Client;

beforeEach(async () => {
  started = [];
  database = await createTestDatabase();
  observer = new Client(database.url);
  await observer.connect();
});

afterEach(async () => {
  for (const test of started) await test.close();
  await waitFor(async () => (await sessions()).length === 0, { what: 'the sessions to end with the application' });
  await observer.end();
  await database.drop();
});

async function start(adapter: Adapter, options: Partial<TestAppOptions> = {}): Promise<TestApp & { script: Script }> {
  const test = await createTestApp({
    adapter,
    databaseUrl: database.url,
    controllers: [Shop, Hanging],
    shared: [Script],
    providers: PROVIDERS,
    ...options,
  });
  started.push(test);
  return Object.assign(test, { script: test.app.get(Script) });
}

async function rows<Row extends object>(sql: string, parameters: unknown[] = []): Promise<Row[]> {
  return (await observer.query<Row>(sql, parameters)).rows;
}

/** Of the application's connections. */
const sessions = () =>
  rows<{ state: string; pid: number }>(
    `select state, pid from pg_stat_activity
     where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()`,
  );

const keys = async () =>
  (await rows<{ key: string }>('select key from idempotency_keys order by key')).map(({ key }) => key);

const advisoryLocks = async () => (await rows(`select from pg_locks where locktype = 'advisory' and granted`)).length;

async function terminate(pid: number): Promise<void> {
  expect(await rows('select pg_terminate_backend($1) as done', [pid])).toEqual([{ done: true }]);
}

function problemOf({ body }: RawResponse): { type: string; status: number } {
  return JSON.parse(body.toString()) as { type: string; status: number };
}

/** Writes down the top-level transaction of every write: a row's xmin is that of its savepoint, if it has one. */
async function watchTransactions(): Promise<() => Promise<{ place: string; xid: string }[]>> {
  await observer.query(`
    create table writes (place text, xid xid8);
    create function note() returns trigger language plpgsql as $$ begin
      insert into writes values (tg_table_name, pg_current_xact_id());
      return null;
    end $$;
    create trigger note after insert or update or delete on idempotency_keys for each row execute function note();
    create trigger note after insert or update or delete on effects for each row execute function note()`);
  return () => rows('select place, xid::text from writes');
}

/** Statements that were handed to a connection before the one before was answered: pg warns of them, pg 9 refuses them. */
function watchOverlaps(test: TestApp): string[] {
  const overlaps: string[] = [];
  const seen = new WeakSet<PoolClient>();
  const watch = (client: PoolClient) => {
    if (seen.has(client)) return;
    seen.add(client);
    const { _queryQueue: queue } = client as unknown as { _queryQueue: unknown[] };
    const query = client.query.bind(client) as (...given: unknown[]) => unknown;
    Object.assign(client, {
      query: (...given: unknown[]) => {
        const { _activeQuery: running } = client as unknown as { _activeQuery: unknown };
        if (running || queue.length > 0) overlaps.push(String(given[0]));
        return query(...given);
      },
    });
  };
  poolsOf(test).forEach((pool) => pool.on('acquire', watch));
  return overlaps;
}

function poolsOf({ instances }: TestApp): Pool[] {
  return instances.map(({ dataSource }) => (dataSource.driver as unknown as { master: Pool }).master);
}

describe.each(ADAPTERS)('on %s', (adapter) => {
  describe('a handler that writes through three services', () => {
    it('leaves nothing behind when it fails, and its key can be used', async () => {
      const test = await start(adapter);
      test.script.fails = true;
      expect((await test.post('/order', 'k')).status).toBe(409);
      expect(await test.effects()).toEqual([]);
      expect(await keys()).toEqual([]);

      test.script.fails = false;
      expect((await test.post('/order', 'k')).status).toBe(201);
      expect(await test.effects()).toEqual(['order', 'message', 'entry']);
      expect(await keys()).toEqual(['k']);
    });

    it('leaves nothing behind when it returns with a server error', async () => {
      const test = await start(adapter);
      expect((await test.post('/server-error', 'k')).status).toBe(500);
      expect(await test.effects()).toEqual([]);
      expect(await keys()).toEqual([]);
    });

    it('commits its writes and its key in one transaction', async () => {
      const test = await start(adapter);
      expect((await test.post('/plain', 'k')).status).toBe(201);
      expect(
        await rows(
          `select count(*)::int as rows, count(distinct xmin::text)::int as transactions
           from (select xmin from idempotency_keys union all select xmin from effects) r`,
        ),
      ).toEqual([{ rows: 3, transactions: 1 }]);
    });

    it('commits them in one transaction, savepoints or not', async () => {
      const test = await start(adapter);
      const writes = await watchTransactions();
      expect((await test.post('/order', 'k')).status).toBe(201);
      expect((await test.post('/order', 'k')).status).toBe(201);
      const all = await writes();
      expect(all.map(({ place }) => place)).toEqual(['effects', 'effects', 'effects', 'idempotency_keys']);
      expect(new Set(all.map(({ xid }) => xid)).size).toBe(1);
    });

    it('needs one connection', async () => {
      const test = await start(adapter, { poolSize: 1 });
      for (const path of ['/order', '/plain', '/parallel', '/settings']) {
        const first = await test.post(path, path);
        expect(first.status).toBe(201);
        const again = await test.post(path, path);
        expect(again.headerLines).toContain('Idempotency-Replayed: true');
        expect(again.body.equals(first.body)).toBe(true);
      }
      test.script.fails = true;
      expect((await test.post('/order', 'failing')).status).toBe(409);
      expect((await test.post('/order', '/plain')).status).toBe(422);
      expect(await sessions()).toHaveLength(test.instances.length);
    });

    it('may do so in parallel', async () => {
      const test = await start(adapter);
      const overlaps = watchOverlaps(test);
      const responses = await Promise.all(['a', 'b', 'c', 'd'].map((key) => test.post('/parallel', key)));
      expect(responses.map(({ body }) => body.toString())).toEqual(Array.from({ length: 4 }, () => '{"rejected":1}'));
      const effects = await test.effects();
      expect(effects.filter((label) => label === 'order')).toHaveLength(40);
      expect(effects).toHaveLength(4 * 23);
      expect(overlaps).toEqual([]);
      expect(test.logs).toEqual([]);
    });
  });

  describe('a transaction that cannot be committed', () => {
    it('since a statement failed is answered with 500, and nothing is kept', async () => {
      const test = await start(adapter);
      const response = await test.post('/swallow', 'k');
      expect([response.status, problemOf(response).type]).toEqual([500, 'urn:nestjs-idempotency:transaction-failed']);
      expect(await test.effects()).toEqual([]);
      expect(await keys()).toEqual([]);
      expect((await sessions()).filter(({ state }) => state !== 'idle')).toEqual([]);
    });

    it('since the handler has done so itself is answered with 500, and its key is not kept', async () => {
      const test = await start(adapter);
      const response = await test.post('/commit', 'k');
      expect([response.status, problemOf(response).type]).toEqual([500, 'urn:nestjs-idempotency:transaction-failed']);
      expect(await keys()).toEqual([]);
    });

    it('since the handler has deallocated what was prepared is rolled back once, and not again', async () => {
      const test = await start(adapter, { instances: 1 }); // each instance learns it for itself
      expect((await test.post('/deallocate', 'k')).status).toBe(503);
      expect(await test.effects()).toEqual([]);
      expect((await test.post('/deallocate', 'k')).status).toBe(201);
      expect(await test.effects()).toEqual(['order']);
    });
  });

  it('prepared statements that somebody has deallocated between two requests are quietly done without', async () => {
    const test = await start(adapter, { poolSize: 1 });
    expect((await test.post('/order', 'first')).status).toBe(201);
    for (const { dataSource } of test.instances) await dataSource.query('deallocate all');
    expect((await test.post('/order', 'second')).status).toBe(201);
    expect((await test.post('/order', 'first')).headerLines).toContain('Idempotency-Replayed: true');
    expect(await test.effects()).toHaveLength(6);
    expect(test.logs).toEqual([]);
  });

  it('as many connections as before are there after 200 requests of all kinds, none in a transaction', async () => {
    const poolSize = 4;
    const test = await start(adapter, { poolSize });
    const overlaps = watchOverlaps(test);
    const statuses: number[] = [];
    for (let round = 0; round < 20; round++) {
      test.script.fails = round % 2 === 1;
      const key = `round ${round >> 1}`;
      const responses = await Promise.all([
        test.post('/order', `order ${key}`), // 201, and replayed in the next round
        test.post('/order', `order ${key}`), // in flight, or the same
        test.post('/order', `order ${key}`, { another: 'payload' }), // in flight, or a mismatch
        test.post('/order', `failing ${key}, ${test.script.fails}`), // 409 in every other round
        test.post('/parallel', `parallel ${round}`),
        test.post('/swallow', `swallow ${round}`), // 500
        test.post('/impatient', `impatient ${key}`), // 201 or, in the next round, a replay
        test.post('/impatient', `impatient ${round}`), // 503 in every other round
        test.post('/server-error', `server error ${round}`), // 500
        test.post('/plain', `plain ${round % 3}`), // replayed from the fourth round on
      ]);
      statuses.push(...responses.map(({ status }) => status));
    }
    expect(statuses).toHaveLength(200);
    expect([...new Set(statuses)].toSorted()).toEqual([201, 409, 422, 500, 503]);

    const pools = poolsOf(test);
    const connections = () => pools.reduce((sum, { totalCount }) => sum + totalCount, 0);
    await waitFor(() => pools.every(({ idleCount, totalCount }) => idleCount === totalCount), {
      what: 'all connections to be back',
    });
    await waitFor(async () => IS_POOLED || (await sessions()).length === connections(), {
      what: 'closed sessions to end',
    });
    for (const pool of pools) {
      expect(pool.totalCount).toBeLessThanOrEqual(poolSize);
      expect(pool.waitingCount).toBe(0);
    }
    expect((await sessions()).filter(({ state }) => state !== 'idle')).toEqual([]);
    expect(await advisoryLocks()).toBe(0);
    expect(overlaps).toEqual([]);
    expect((await Promise.all(Array.from({ length: 8 }, () => test.post('/order', 'last round 1')))).length).toBe(8);
  });

  describe('a backend that is killed', () => {
    const FATES: [when: string, path: string][] = [
      ['before the handler writes again', '/stop?then=write'],
      ['before the handler returns', '/stop?then=return'],
      ['while a statement runs', '/sleep'],
      ['between the end of the handler and the COMMIT', '/stop-outside'],
    ];

    it.each(FATES)('%s makes it a 503, and the key can be used', async (_, path) => {
      const test = await start(adapter);
      const { script } = test;
      const request = test.post(path, 'k');
      const pid = await script.arrived();
      await terminate(pid);
      await waitFor(async () => (await sessions()).every((session) => session.pid !== pid), {
        what: 'the session to end',
      });
      script.goOn();
      const response = await request;
      expect(response.status).toBe(503);
      expect(response.headerLines.some((line) => line.startsWith('Retry-After: '))).toBe(true);
      expect(problemOf(response)).toMatchObject({ type: 'urn:nestjs-idempotency:store-unavailable', status: 503 });
      expect(await test.effects()).toEqual([]);
      expect(await keys()).toEqual([]);
      expect(await advisoryLocks()).toBe(0);

      const healed = await Promise.all(
        Array.from({ length: 20 }, (__, index) => test.post('/plain', `plain ${index}`)),
      );
      expect(healed.every(({ status }) => status === 201)).toBe(true);
      for (const pool of poolsOf(test)) expect(pool.idleCount).toBe(pool.totalCount);

      if (path === '/sleep') return;
      const again = test.post(path, 'k');
      await script.arrived();
      script.goOn();
      expect((await again).status).toBe(201);
      expect(await keys()).toContain('k');
    });

    it('while its connection is idle in the pool is not noticed by anybody', async () => {
      const test = await start(adapter);
      expect((await test.post('/plain', 'first')).status).toBe(201);
      const before = await sessions();
      for (const { pid } of before) await terminate(pid);
      await waitFor(async () => (await sessions()).length === 0, { what: 'the sessions to end' });
      await waitFor(() => IS_POOLED || poolsOf(test).every(({ totalCount }) => totalCount === 0), {
        what: 'the pools to notice',
      });
      expect((await test.post('/plain', 'second')).status).toBe(201);
      expect((await test.post('/plain', 'first')).headerLines).toContain('Idempotency-Replayed: true');
    });
  });

  describe('what a handler leaves running', () => {
    it('is written on its own once the request has committed', async () => {
      const test = await start(adapter);
      expect((await test.post('/leave-running', 'k')).status).toBe(201);
      expect(await test.effects()).toEqual(['order']);
      void test.script.stopAt(0);
      expect(await test.script.late).toMatchObject(Array.from({ length: 5 }, () => ({ status: 'fulfilled' })));
      expect(await test.effects()).toHaveLength(6);
    });

    it('is refused once it was rolled back', async () => {
      const test = await start(adapter);
      test.script.fails = true;
      expect((await test.post('/leave-running', 'k')).status).toBe(409);
      void test.script.stopAt(0);
      const outcomes = (await test.script.late) as PromiseRejectedResult[];
      expect(outcomes).toHaveLength(5);
      for (const { reason } of outcomes) expect(reason).toBeInstanceOf(TransactionRolledBackError);
      expect(await test.effects()).toEqual([]);
    });
  });

  describe('a handler that waits for itself', () => {
    it.each([
      'never ended',
      'ended in the order of their begin',
      'begun by a helper, and unused',
      'awaited from within',
    ])('ends with the time limit: transactions that are %s', async (how) => {
      const test = await start(adapter, { poolSize: 2 });
      const path = `/hang?how=${encodeURIComponent(how)}`;
      test.script.fails = true;
      const response = await test.post(path, 'k');
      expect(response.status).toBe(503);
      expect(problemOf(response).type).toBe('urn:nestjs-idempotency:timed-out');
      expect(await test.effects()).toEqual([]);

      test.script.fails = false;
      await waitFor(async () => (await test.post(path, 'k')).status === 201, { what: 'the key to be free' });
      expect(await test.effects()).toEqual([how]);
      await waitFor(async () => (await sessions()).every(({ state }) => state === 'idle'), {
        what: 'the sessions to end',
      });
    });
  });
});

describe.each(ADAPTERS)('with a DataSource that is different, on %s,', (adapter) => {
  /** The same shop over a second DataSource, which is the one that is configured. */
  async function startWith(
    options: Partial<PostgresDataSourceOptions>,
  ): Promise<TestApp & { script: Script; special: DataSource }> {
    const name = 'special';
    const inject = <T>(type: Type<T>, ...tokens: unknown[]) => ({
      provide: type,
      useFactory: (...dependencies: unknown[]) => Reflect.construct(type, dependencies) as T,
      inject: tokens as never[],
    });
    const test = await start(adapter, {
      poolSize: 1,
      idempotency: { dataSource: name },
      imports: [
        TypeOrmModule.forRoot({
          name,
          type: 'postgres',
          ...(options.replication === undefined ? { url: database.url } : {}),
          entities: [Effect],
          poolSize: 3,
          retryAttempts: 0,
          ...options,
        } as PostgresDataSourceOptions),
        TypeOrmModule.forFeature([Effect], name),
      ],
      providers: [
        inject(Orders, getRepositoryToken(Effect, name)),
        inject(Outbox, getEntityManagerToken(name)),
        inject(Books, getDataSourceToken(name)),
        inject(StopOutside, Script),
      ],
      controllers: [SpecialShop],
    });
    return Object.assign(test, { special: test.app.get<DataSource>(getDataSourceToken(name)) });
  }

  @Controller()
  class SpecialShop extends Shop {
    constructor(
      orders: Orders,
      outbox: Outbox,
      books: Books,
      script: Script,
      idempotency: IdempotencyService,
      @InjectDataSource('special') dataSource: DataSource,
      @InjectRepository(Effect, 'special') effects: Repository<Effect>,
    ) {
      super(orders, outbox, books, script, idempotency, dataSource, effects);
    }
  }

  /** First use, replay, mismatch, failure, parallel writes: what every such DataSource has to do as any other. */
  async function expectOrdinary(test: TestApp & { script: Script }): Promise<void> {
    const first = await test.post('/settings', 'k');
    expect([first.status, first.body.toString()]).toEqual([201, '{"bytes":"\\u0000\u00ff\\\\"}']);
    const again = await test.post('/settings', 'k');
    expect(again.headerLines).toContain('Idempotency-Replayed: true');
    expect(again.body.equals(first.body)).toBe(true);
    expect((await test.post('/order', 'k')).status).toBe(422);
    test.script.fails = true;
    expect((await test.post('/order', 'failing')).status).toBe(409);
    test.script.fails = false;
    expect((await test.post('/order', 'failing')).status).toBe(201);
    expect((await test.post('/parallel', 'parallel')).body.toString()).toBe('{"rejected":1}');
    expect(await test.effects()).toHaveLength(2 + 3 + 23);
    const found = await test.app.get(IdempotencyService).find('k');
    expect(Math.abs(found!.createdAt.getTime() - Date.now())).toBeLessThan(60_000);
    await waitFor(async () => (await sessions()).every(({ state }) => state === 'idle'), { what: 'quiet' });
  }

  it('by default, all is as with any other', async () => {
    const test = await startWith({});
    await expectOrdinary(test);
    expect(test.script.seen).toEqual({ synchronousCommit: 'on', isolation: 'read committed', byteaOutput: 'hex' });
  });

  it.each([
    ['REPEATABLE READ', 'repeatable read'],
    ['SERIALIZABLE', 'serializable'],
  ] as const)('with isolationLevel %s the transaction has it', async (isolationLevel, isolation) => {
    const test = await startWith({ isolationLevel });
    await expectOrdinary(test);
    expect(test.script.seen).toMatchObject({ isolation });
  });

  it('with a schema the keys are in it', async () => {
    await observer.query(`create schema infra; create table infra.idempotency_keys (like public.idempotency_keys including all);
      create table infra.idempotency_steps (like public.idempotency_steps including all);
      create table infra.effects (id serial primary key, label text not null)`);
    const test = await startWith({ schema: 'infra' });
    expect((await test.post('/settings', 'k')).status).toBe(201);
    expect((await test.post('/settings', 'k')).headerLines).toContain('Idempotency-Replayed: true');
    expect(await rows('select key from infra.idempotency_keys')).toEqual([{ key: 'k' }]);
    expect(await rows('select label from infra.effects order by id')).toEqual([
      { label: 'order' },
      { label: 'message' },
    ]);
    expect(await keys()).toEqual([]);
  });

  it('with logging the statements of the handler are logged, and the body is not', async () => {
    const logged: string[] = [];
    const note = (first: unknown, second: unknown): void => void logged.push(`${String(first)} ${String(second)}`);
    const test = await startWith({
      logging: true,
      logger: {
        logQuery: note,
        logQueryError: note,
        logQuerySlow: note,
        logSchemaBuild: note,
        logMigration: note,
        log: note,
      },
    });
    await expectOrdinary(test);
    expect(logged.filter((line) => line.includes('INSERT INTO "effects"')).length).toBeGreaterThan(0);
    expect(logged.filter((line) => /savepoint idempotency_\d+/.test(line)).length).toBeGreaterThan(0);
    expect(logged.filter((line) => line.includes('"bytes"'))).toEqual([]);
  });

  it('with pipelined connections', async () => {
    const test = await startWith({ extra: { pipeline: true } });
    await expectOrdinary(test);
    const request = test.post('/stop?then=return', 'killed');
    await terminate(await test.script.arrived());
    test.script.goOn();
    expect((await request).status).toBe(503);
    expect((await test.post('/plain', 'after')).status).toBe(201);
  });

  it('with pipelined connections, a claim that gets no answer ends in time, and its handler never runs', async () => {
    const test = await startWith({ extra: { pipeline: true } });
    await observer.query('begin; lock table idempotency_keys in access exclusive mode');
    const unanswered = await test.post('/plain', 'unanswered');
    await observer.query('rollback');
    expect(unanswered.status).toBe(503);
    await waitFor(async () => (await sessions()).every(({ state }) => state === 'idle'), { what: 'quiet' });
    expect([await keys(), await test.effects()]).toEqual([[], []]);
    expect((await test.post('/plain', 'unanswered')).status).toBe(201);
  });

  it.each([
    ["bytea_output = 'escape'", { byteaOutput: 'escape' }],
    ["datestyle = 'SQL, DMY'", {}],
    ["datestyle = 'German'", {}],
    ["intervalstyle = 'sql_standard'", {}],
    ['standard_conforming_strings = off', {}],
    ["timezone = 'Pacific/Chatham'", {}],
    ["default_transaction_isolation = 'serializable'", { isolation: 'serializable' }],
    ['extra_float_digits = -15', {}],
    ["search_path = '$user', 'public', 'pg_catalog'", {}],
  ])('with %s', async (setting, seen) => {
    await observer.query(`alter database ${database.name} set ${setting}`);
    const test = await startWith({});
    await expectOrdinary(test);
    expect(test.script.seen).toMatchObject(seen);
  });

  it('with synchronous_commit off it is on for the transaction, and only for it', async () => {
    await observer.query(`alter database ${database.name} set synchronous_commit = off`);
    const test = await startWith({ poolSize: 1 });
    await expectOrdinary(test);
    expect(test.script.seen).toMatchObject({ synchronousCommit: 'on' });
    expect(await test.special.query(`select current_setting('synchronous_commit') as value`)).toEqual([
      { value: 'off' },
    ]);
  });

  it('with replicas all that a request reads comes from the primary', async () => {
    const replica = await createTestDatabase();
    const onReplica = new Client(replica.url);
    await onReplica.connect();
    try {
      await onReplica.query(`create table effects (id serial primary key, label text not null);
        insert into effects (label) values ('on the replica')`);
      const test = await startWith({
        replication: {
          defaultMode: 'slave',
          master: { url: database.url },
          slaves: [{ url: replica.url }],
        },
      });
      const repository = test.special.getRepository(Effect);
      expect((await repository.find()).map(({ label }) => label)).toEqual(['on the replica']);
      await expectOrdinary(test);
      expect((await onReplica.query('select label from effects')).rows).toEqual([{ label: 'on the replica' }]);
      expect((await onReplica.query('select key from idempotency_keys')).rows).toEqual([]);
    } finally {
      for (const test of started.splice(0)) await test.close();
      await onReplica.end();
      await replica.drop();
    }
  });
});
