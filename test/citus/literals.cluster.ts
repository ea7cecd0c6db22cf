import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Controller, Post } from '@nestjs/common';
import { InjectDataSource, TypeOrmModule } from '@nestjs/typeorm';
import { DataSource, type EntityManager } from 'typeorm';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { CITUS_KINDS } from '../support/citus.js';
import type { TestDatabase } from '../support/database.js';
import { lines } from '../support/response.js';
import { createTestApp, type TestApp } from '../support/test-app.js';
import { databaseOf, Order, ORDERS, rowsOn } from './shop.js';

/** Citus writes values for its workers as the session has it, and they read them by their own settings. */
const OWN_WAYS = ["set local datestyle = 'SQL, DMY'", 'set local standard_conforming_strings = off'];

/** With a backslash. */
const SCOPE = String.raw`tenant\1`;

async function goOwnWays(manager: EntityManager): Promise<void> {
  for (const sql of OWN_WAYS) {
    await manager.query(sql);
  }
}

@Controller()
class Foreigner {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('transaction')
  @Idempotent()
  async transaction(): Promise<object> {
    await goOwnWays(this.dataSource.manager);
    return { done: true };
  }

  @Post('lease')
  @Idempotent({ mode: 'lease' })
  async lease(@IdempotencyContext() context: IdempotencyContext): Promise<object> {
    await context.transaction('own ways', goOwnWays);
    return { done: true };
  }
}

describe.each(CITUS_KINDS)('keys in %s tables, where a handler writes dates and backslashes in its own way', (kind) => {
  let database: TestDatabase;
  let test: TestApp;

  beforeAll(async () => {
    database = await databaseOf(kind);
    await rowsOn(database.url, ORDERS);
    test = await createTestApp({
      adapter: 'express',
      databaseUrl: database.url,
      instances: 1,
      controllers: [Foreigner],
      entities: [Order],
      imports: [TypeOrmModule.forFeature([Order])],
      idempotency: { purge: false, scope: () => SCOPE },
    });
  });

  afterAll(async () => {
    await test.close();
    await database.drop();
  });

  it.each(['transaction', 'lease'])('are recorded under their name, and last a day: %s', async (path) => {
    const first = await test.post(`/${path}`, path);
    const again = await test.post(`/${path}`, path);
    expect([first.status, again.status, again.body]).toEqual([201, 201, first.body]);
    expect(lines(again, 'Idempotency-Replayed')).toHaveLength(1);
    const rows = await rowsOn(
      database.url,
      `select scope, round(extract(epoch from expires_at - now()) / 3600)::int4 as hours from idempotency_keys
       where key = $1`,
      [path],
    );
    expect(rows).toEqual([{ scope: SCOPE, hours: 24 }]);
  });

  it.each(["datestyle = 'SQL, DMY'", 'standard_conforming_strings = off'])(
    'are refused where all sessions do: %s',
    async (setting) => {
      await rowsOn(database.url, `alter database ${database.name} set ${setting}`);
      const started = createTestApp({ adapter: 'express', databaseUrl: database.url, instances: 1 });
      await expect(started).rejects.toThrow(/by which Citus writes what its workers read by theirs/);
      await rowsOn(database.url, `alter database ${database.name} reset ${setting.split(' ')[0]}`);
    },
  );
});
