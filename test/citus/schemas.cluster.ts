import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { TypeOrmModule } from '@nestjs/typeorm';
import { DataSource } from 'typeorm';
import { IdempotencyService } from '../../src/index.js';
import { Migrator } from '../../src/migrate/migrate.js';
import { quoteIdentifier } from '../../src/postgres/table-name.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { createTestApp, inTurn, type TestApp } from '../support/test-app.js';
import { Order, rowsOn, ShopController, urlsOf } from './shop.js';

const STORM = { keys: 20, duplicates: 6 };
/** As nobody would name it, so that each place which forgets to quote it fails. */
const TENANT = `it's_"A"`;
const SCHEMA = quoteIdentifier(TENANT);

describe("a tenant's keys and orders in a distributed schema", () => {
  let database: TestDatabase;
  let apps: TestApp[];

  beforeAll(async () => {
    database = await createTestDatabase();
    await rowsOn(database.url, `set citus.enable_schema_based_sharding = on; create schema ${SCHEMA}`);
    const dataSource = await new DataSource({ type: 'postgres', url: database.url }).initialize();
    await new Migrator(dataSource, TENANT).run();
    await dataSource.destroy();
    await rowsOn(database.url, `create table ${SCHEMA}.orders (id uuid primary key, key text not null)`);
    apps = [];
    for (const databaseUrl of urlsOf(database.url).slice(0, 2)) {
      apps.push(
        await createTestApp({
          adapter: 'fastify',
          databaseUrl,
          instances: 1,
          controllers: [ShopController],
          entities: [Order],
          synchronize: false,
          extra: { options: `-c search_path=${SCHEMA}` },
          imports: [TypeOrmModule.forFeature([Order])],
          idempotency: { purge: false, schema: TENANT },
        }),
      );
    }
  });

  afterAll(async () => {
    for (const app of apps) {
      await app.close();
    }
    await database.drop();
  });

  it('are on one node, which commits by itself', async () => {
    const nodes = await rowsOn(
      database.url,
      `select count(distinct nodeport)::int4 as nodes, count(*)::int4 as shards from citus_shards
       where starts_with(table_name::text, $1)`,
      [`${SCHEMA}.`],
    );
    expect(nodes).toEqual([{ nodes: 1, shards: 4 }]); // with the list of migrations
    await rowsOn(database.url, 'select recover_prepared_transactions()');
    const before = await rowsOn(database.url, 'select from pg_dist_transaction');
    expect((await apps[0]!.post('/orders', '/orders alone')).status).toBe(201);
    await expect(rowsOn(database.url, 'select from pg_dist_transaction')).resolves.toHaveLength(before.length);
    expect((await apps[0]!.post('/leases', '/leases alone')).status).toBe(201);
  });

  it.each(['/orders', '/leases'])('run once, also where two nodes are asked at the same time: %s', async (path) => {
    const statuses = new Set<number>();
    for (let n = 0; n < STORM.keys; n++) {
      const next = inTurn(apps);
      const ask = () => next().post(path, `${path} storm ${n}`, { n });
      const answers = await Promise.all(Array.from({ length: STORM.duplicates }, ask));
      answers.forEach(({ status }) => statuses.add(status));
      const bodies = new Set(answers.filter(({ status }) => status === 201).map(({ body }) => body.toString()));
      expect([n, bodies.size]).toEqual([n, 1]);
    }
    expect([...statuses].filter((status) => ![201, 409, 503].includes(status))).toEqual([]);
    await expect(
      rowsOn(database.url, `select key from ${SCHEMA}.orders where key like $1`, [`${path} storm %`]),
    ).resolves.toHaveLength(STORM.keys);
  });

  it('are purged, and forgotten', async () => {
    const service = apps[1]!.app.get(IdempotencyService);
    await rowsOn(
      database.url,
      `update ${SCHEMA}.idempotency_keys set created_at = '2020-01-01', expires_at = '2020-01-02' where key = '/orders alone'`,
    );
    await expect(service.purge()).resolves.toBe(1);
    await expect(service.forget('/leases alone')).resolves.toBe(true);
    await expect(service.forgetScope('')).resolves.toBe(2 * STORM.keys);
  });
});
