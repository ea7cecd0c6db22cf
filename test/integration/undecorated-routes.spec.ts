import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { AbstractLogger, DataSource, type LogLevel, type LogMessage } from 'typeorm';
import { CountingProxy } from '../support/counting-proxy.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import { type ScriptedApp, startScriptedApp } from '../support/scripted-app.js';
import { ADAPTERS } from '../support/test-app.js';

const statements: string[] = [];

class StatementLogger extends AbstractLogger {
  protected override writeLog(
    _level: LogLevel,
    messages: LogMessage | string | number | (LogMessage | string | number)[],
  ) {
    for (const message of this.prepareLogMessages(messages)) statements.push(String(message.message));
  }
}

/** One of each way to use a DataSource. */
async function work(dataSource: DataSource): Promise<unknown> {
  const effects = dataSource.getRepository(Effect);
  const { id } = await effects.save({ label: 'saved' });
  await effects.update({ id }, { label: 'updated' });
  await dataSource.transaction('SERIALIZABLE', async (manager) => {
    await manager.insert(Effect, { label: 'inserted' });
    await manager.transaction((nested) => nested.insert(Effect, { label: 'nested' }));
  });
  await dataSource.transaction((manager) => manager.query('select 1 / 0')).catch(() => undefined);
  const runner = dataSource.createQueryRunner();
  await runner.connect();
  await runner.startTransaction();
  await runner.manager.delete(Effect, { id });
  await runner.rollbackTransaction();
  await runner.release();
  await Promise.all([effects.count(), dataSource.createQueryBuilder(Effect, 'e').where('id = :id', { id }).getMany()]);
  return dataSource.query('truncate effects restart identity');
}

describe.each(ADAPTERS)('an undecorated route, on %s', (adapter) => {
  let database: TestDatabase;
  let proxy: CountingProxy;
  let dataSource: DataSource;
  let app: ScriptedApp | undefined;

  beforeAll(async () => {
    database = await createTestDatabase();
    proxy = await CountingProxy.start(database.url);
    const options = { url: proxy.url, entities: [Effect], synchronize: true, poolSize: 2 };
    dataSource = new DataSource({ type: 'postgres', ...options, logger: new StatementLogger(['query']) });
    await dataSource.initialize();
  });

  afterAll(async () => {
    await app?.close();
    await dataSource.destroy();
    await proxy.stop();
    await database.drop();
  });

  /** What goes to PostgreSQL, and how often it is waited for. */
  async function cost(run: () => Promise<unknown>): Promise<{ sent: string[]; roundTrips: number }> {
    statements.length = 0;
    const roundTrips = await proxy.count(run);
    return { sent: [...statements], roundTrips };
  }

  it('sends what it sends without the library, in as many round trips', async () => {
    await work(dataSource); // both connections are there
    const without = await cost(() => work(dataSource));
    expect(without.sent.length).toBeGreaterThan(15);
    app = await startScriptedApp(dataSource, adapter);
    expect(await cost(() => app!.run('plain', work))).toEqual(without);

    expect((await app.run('transaction', (source) => source.query('select 1'))).status).toBe(201);
    expect(await cost(() => app!.run('plain', work))).toEqual(without);
  });
});
