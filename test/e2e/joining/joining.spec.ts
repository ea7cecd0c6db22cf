import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { DataSource, type DataSourceOptions, type EntityManager } from 'typeorm';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { Effect } from '../../support/effect.entity.js';
import { type Place, type ScriptedApp, startScriptedApp } from '../../support/scripted-app.js';
import type { Adapter } from '../../support/test-app.js';
import { TenantDataSource, TenantView, withLocalTenantRunners, withTenantRunners } from './extensions.js';

let database: TestDatabase;
let observer: Client;
let dataSource: DataSource;
let open: ScriptedApp[];

const options = (): DataSourceOptions => ({
  type: 'postgres',
  url: database.url,
  entities: [Effect],
  poolSize: 8,
});

beforeAll(async () => {
  database = await createTestDatabase();
  observer = new Client(database.url);
  await observer.connect();
  await (await new DataSource({ ...options(), synchronize: true }).initialize()).destroy();
});

afterAll(async () => {
  await observer.end();
  await database.drop();
});

beforeEach(async () => {
  await observer.query('truncate effects, idempotency_keys cascade');
  dataSource = await new DataSource(options()).initialize();
  open = [];
});

afterEach(async () => {
  await Promise.all(open.map((app) => app.close()));
  if (dataSource.isInitialized) await dataSource.destroy();
});

const effects = async (): Promise<string[]> =>
  (await observer.query<{ label: string }>('select label from effects order by id')).rows.map(({ label }) => label);

/** What a statement sees of the tenant, as a row. */
const WITH_TENANT = `insert into effects (label) values ($1 || coalesce(nullif(current_setting('app.tenant', true), ''), 'nobody'))`;

const isItsOwn = (): boolean => Object.getOwnPropertyNames(dataSource).every((name) => name !== 'createQueryRunner');

describe.each<[Adapter, Place]>([
  ['express', 'transaction'],
  ['fastify', 'step'],
])('on %s, in a %s', (adapter, place) => {
  const start = async (on = dataSource): Promise<ScriptedApp> => {
    const app = await startScriptedApp(on, adapter);
    open.push(app);
    return app;
  };

  /** Runs `work` with its writes, and once more in a handler that fails behind it. */
  async function keepsOnlyWhatSucceeds(app: ScriptedApp, work: (label: string) => Promise<unknown>) {
    expect((await app.run(place, () => work('kept '))).status).toBe(201);
    const failing = await app.run(place, async () => {
      await work('undone ');
      throw new Error('behind its writes');
    });
    expect(failing.status).toBe(500);
  }

  it('a view of the DataSource for a tenant joins, and keeps its tenant everywhere', async () => {
    const app = await start();
    const view = (): DataSource => new TenantView(dataSource, 'a');
    expect((await app.run('plain', () => view().query(WITH_TENANT, ['plain ']))).status).toBe(201);
    await keepsOnlyWhatSucceeds(app, async (label) => {
      const one = view();
      await Promise.all([
        one.query(WITH_TENANT, [label]),
        one.transaction((manager) => manager.query(WITH_TENANT, [`${label}nested `])),
        dataSource.query(WITH_TENANT, [`${label}of `]),
        new TenantView(dataSource, 'b').query(WITH_TENANT, [label]),
        one.manager.save(Effect, { label: `${label}saved` }),
      ]);
      await expect(one.destroy()).rejects.toThrow('not to be closed');
    });
    expect((await effects()).toSorted()).toEqual(
      ['plain a', 'kept a', 'kept b', 'kept nested a', 'kept of nobody', 'kept saved'].toSorted(),
    );
    expect(isItsOwn()).toBe(true);
  });

  it('runners with arguments of their own work, one statement of theirs at a time', async () => {
    withTenantRunners(dataSource, 'a');
    const app = await start();
    await keepsOnlyWhatSucceeds(app, async (label) => {
      const runner = dataSource.createQueryRunner();
      await Promise.all([
        dataSource.query(WITH_TENANT, [label]),
        dataSource.transaction(async (manager) => {
          await manager.query(WITH_TENANT, [label]);
          await Promise.all([manager.query(WITH_TENANT, [label]), dataSource.query(WITH_TENANT, [label])]);
        }),
        runner.query(WITH_TENANT, [label]),
      ]);
      await runner.startTransaction();
      await runner.query(WITH_TENANT, ['undone ']);
      await runner.rollbackTransaction();
      await runner.release();
      await dataSource.getRepository(Effect).save({ label: 'saved' });
    });
    expect(await effects()).toEqual([...Array.from({ length: 5 }, () => 'kept a'), 'saved']);
  });

  it('runners that add to each transaction they begin do so in a request', async () => {
    withLocalTenantRunners(dataSource);
    const app = await start();
    await keepsOnlyWhatSucceeds(app, async (label) => {
      await dataSource.transaction((manager) => manager.query(WITH_TENANT, [label]));
      await dataSource.getRepository(Effect).save({ label: `${label}saved` });
    });
    expect(await effects()).toEqual(['kept local', 'kept saved']);
  });

  it("an EntityManager's own transaction() is called", async () => {
    await dataSource.destroy();
    dataSource = await new TenantDataSource(options()).initialize();
    const app = await start();
    const work = (label: string) => async (manager: EntityManager) => void (await manager.query(WITH_TENANT, [label]));
    await app.run('plain', () => dataSource.transaction(work('plain ')));
    await keepsOnlyWhatSucceeds(app, async (label) => {
      await dataSource.transaction(work(label));
      await dataSource.createEntityManager().transaction((manager) => manager.transaction(work(label)));
    });
    expect(await effects()).toEqual(['plain by the manager', 'kept by the manager', 'kept by the manager']);
  });

  it('two applications on one DataSource keep apart, and one goes on when the other has closed', async () => {
    const [first, second] = [await start(), await start()];
    const add = (label: string) => dataSource.getRepository(Effect).save({ label });
    await Promise.all(
      [first, second].map((app, number) => keepsOnlyWhatSucceeds(app, (label) => add(`${label}${number}`))),
    );
    expect((await effects()).toSorted()).toEqual(['kept 0', 'kept 1']);
    await first.close();
    await keepsOnlyWhatSucceeds(second, (label) => add(`${label}alone`));
    expect((await effects()).slice(2)).toEqual(['kept alone']);
    await second.close();
    open = [];
    await add('ordinary');
    expect((await effects()).at(-1)).toBe('ordinary');
  });

  it('a DataSource that is initialised again joins', async () => {
    const app = await start();
    const add = (label: string) => dataSource.getRepository(Effect).save({ label });
    await dataSource.destroy();
    await dataSource.initialize();
    await keepsOnlyWhatSucceeds(app, (label) => add(`${label}again`));
    await dataSource.destroy();
    await dataSource.setOptions({ poolSize: 2 }).initialize();
    await keepsOnlyWhatSucceeds(app, (label) => add(`${label}with options`));
    expect(await effects()).toEqual(['kept again', 'kept with options']);
  });

  it('runners that were made before join at their first use', async () => {
    const app = await start();
    const [querying, saving, beginning, asking] = Array.from({ length: 8 }, () => dataSource.createQueryRunner());
    const writes = async (label: string) => {
      await querying!.query('insert into effects (label) values ($1)', [`${label}queried`]);
      await saving!.manager.save(Effect, { label: `${label}saved` });
      await beginning!.startTransaction();
      await beginning!.manager.save(Effect, { label: `${label}by its transaction` });
      await dataSource.getRepository(Effect).save({ label: `${label}by a repository` });
      await beginning!.commitTransaction();
      if (!asking!.isTransactionActive) await asking!.startTransaction();
      await asking!.manager.save(Effect, { label: `${label}asked` });
      await asking!.commitTransaction();
      await asking!.manager.transaction((manager) => manager.save(Effect, { label: `${label}nested` }));
    };
    await keepsOnlyWhatSucceeds(app, writes);
    const labels = ['queried', 'saved', 'by its transaction', 'by a repository', 'asked', 'nested'];
    expect(await effects()).toEqual(labels.map((label) => `kept ${label}`));

    expect((await app.run('plain', () => writes('plain '))).status).toBe(201); // whoever shares them goes on
    expect((await effects()).slice(6)).toEqual(labels.map((label) => `plain ${label}`));
    await Promise.all([querying, saving, beginning, asking].map((runner) => runner!.release()));
  });

  it('runners that are connected, or made outside, stay out', async () => {
    const app = await start();
    const listening = dataSource.createQueryRunner();
    await listening.connect();
    const outside = app.service.outsideTransaction(() => dataSource.createQueryRunner());
    const failing = await app.run(place, async () => {
      await listening.query(`insert into effects (label) values ('connected')`);
      await outside.query(`insert into effects (label) values ('outside')`);
      await dataSource.query(`insert into effects (label) values ('undone')`);
      throw new Error('behind its writes');
    });
    expect(failing.status).toBe(500);
    await listening.release();
    await outside.release();
    expect(await effects()).toEqual(['connected', 'outside']);
  });

  it('an undecorated route has runners that are as TypeORM has made them', async () => {
    const before = dataSource.createQueryRunner();
    const app = await start();
    let made: object | undefined;
    await app.run('plain', () => void (made = dataSource.createQueryRunner()));
    const describedAs = (runner: object) =>
      Object.entries(Object.getOwnPropertyDescriptors(runner)).map(([name, { value, ...kind }]) => [
        name,
        typeof value,
        kind,
      ]);
    expect(describedAs(made!)).toEqual(describedAs(before));
    await app.close();
    open = [];
    expect(Object.getOwnPropertyNames(Object.getPrototypeOf(before))).not.toContain('manager');
    expect(describedAs(dataSource.createQueryRunner())).toEqual(describedAs(before));
  });

  it('a runner that asks whether a transaction is active before it begins one works', async () => {
    const app = await start();
    await keepsOnlyWhatSucceeds(app, async (label) => {
      const runner = dataSource.createQueryRunner();
      if (!runner.isTransactionActive) await runner.startTransaction();
      await runner.manager.save(Effect, { label });
      await runner.commitTransaction();
      await runner.release();
    });
    expect(await effects()).toEqual(['kept ']);
    const undone = await app.run(place, async () => {
      const runner = dataSource.createQueryRunner();
      if (!runner.isTransactionActive) await runner.startTransaction();
      await runner.manager.save(Effect, { label: 'undone' });
      await runner.rollbackTransaction();
      await runner.release();
      return 'done all the same';
    });
    expect(undone.status).toBe(500);
    expect(await effects()).toEqual(['kept ']);
  });
});
