/**
 * Throughput and round trips of one route in each mode, on a database of the coordinator that knows nothing of Citus, and
 * with what Citus can make of the tables: `npm run test:citus -- --measure [<requests>]`. The handler inserts one row.
 * The tables take turns, round by round, so that what else the machine does hits all of them; told is the median.
 */
import { randomUUID } from 'node:crypto';
import { TypeOrmModule } from '@nestjs/typeorm';
import { idempotencyMigrations } from '../../migrations/index.js';
import { DataSource } from 'typeorm';
import { addNodes, CITUS_KINDS, turnTablesIntoCitus, WORKERS } from '../support/citus.js';
import { CountingProxy } from '../support/counting-proxy.js';
import { databaseUrl } from '../support/database.js';
import { createTestApp, type TestApp } from '../support/test-app.js';
import { Order, rowsOn, ShopController } from './shop.js';

const CLIENTS = 16;
const ROUNDS = 5;
const PATHS = ['/orders', '/leases'] as const;
const KINDS = ['PostgreSQL', ...CITUS_KINDS] as const;
type Kind = (typeof KINDS)[number];

/** Beside distributed keys an order is on another node, half of the time; beside the others it is where they are. */
const ORDERS: Record<Kind, string> = {
  PostgreSQL: 'select 1',
  managed: `select citus_add_local_table_to_metadata('orders')`,
  distributed: `select create_distributed_table('orders', 'id', shard_count => 4)`,
  'single-shard': `select create_distributed_table('orders', null, colocate_with => 'idempotency_keys')`,
};

interface Server {
  kind: Kind;
  app: TestApp;
  roundTrips: Record<string, number>;
  perSecond: Record<string, number[]>;
  close(): Promise<void>;
}

const requests = Number(process.argv[2] || 600);
const coordinator = process.env['DATABASE_URL'] ?? '';

const servers: Server[] = [];
try {
  for (const kind of KINDS) {
    servers.push(await start(kind));
  }
  for (let round = 0; round <= ROUNDS; round++) {
    for (const server of servers) {
      for (const path of PATHS) {
        const keys = Array.from({ length: requests }, () => randomUUID());
        const figures = { first: await perSecond(server, path, keys), replay: await perSecond(server, path, keys) };
        for (const [what, figure] of Object.entries(figures)) {
          (server.perSecond[`${path} ${what}/s`] ??= []).push(...(round === 0 ? [] : [figure])); // the first one warms up
        }
      }
    }
  }
  console.table(Object.fromEntries(servers.map((server) => [server.kind, figuresOf(server)])));
} finally {
  for (const server of servers) {
    await server.close();
  }
}

async function start(kind: Kind): Promise<Server> {
  const name = `idempotency_measure_${randomUUID().replaceAll('-', '')}`;
  const nodes = kind === 'PostgreSQL' ? [coordinator] : [coordinator, ...WORKERS];
  for (const url of nodes) {
    await rowsOn(url, `create database ${name}`);
  }
  const url = databaseUrl(coordinator, name);
  if (kind !== 'PostgreSQL') {
    await addNodes(coordinator, WORKERS, name);
  }
  const migrating = await new DataSource({ type: 'postgres', url, migrations: idempotencyMigrations }).initialize();
  await migrating.runMigrations();
  await migrating.destroy();
  if (kind !== 'PostgreSQL') {
    await turnTablesIntoCitus(kind, url);
  }
  await rowsOn(url, `create table orders (id uuid primary key, key text not null)`);
  await rowsOn(url, ORDERS[kind]);

  const proxy = await CountingProxy.start(url);
  const options = {
    adapter: 'express' as const,
    instances: 1 as const,
    controllers: [ShopController],
    entities: [Order],
    synchronize: false,
    imports: [TypeOrmModule.forFeature([Order])],
    idempotency: { purge: false as const },
  };
  const counted = await createTestApp({ ...options, databaseUrl: proxy.url });
  const roundTrips: Record<string, number> = {};
  for (const path of PATHS) {
    await counted.post(path, randomUUID()); // what a connection learns it learns with its first request
    const key = randomUUID();
    roundTrips[`${path} first, round trips`] = await proxy.count(() => counted.post(path, key));
    roundTrips[`${path} replay, round trips`] = await proxy.count(() => counted.post(path, key));
  }
  await counted.close();
  await proxy.stop();
  const app = await createTestApp({ ...options, databaseUrl: url });
  return {
    kind,
    app,
    roundTrips,
    perSecond: {},
    close: async () => {
      await app.close();
      for (const node of nodes) {
        await rowsOn(node, `drop database ${name} with (force)`);
      }
    },
  };
}

async function perSecond({ app }: Server, path: string, keys: string[]): Promise<number> {
  const left = [...keys];
  const startedAt = performance.now();
  const client = async (): Promise<void> => {
    for (let key = left.pop(); key !== undefined; key = left.pop()) {
      const { status } = await app.post(path, key);
      if (status !== 201) {
        throw new Error(`${path} was answered with ${status}`);
      }
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, client));
  return Math.round((keys.length * 1_000) / (performance.now() - startedAt));
}

function figuresOf({ roundTrips, perSecond: measured }: Server): Record<string, number> {
  const medians = Object.entries(measured).map(([what, all]) => {
    const sorted = all.toSorted((a, b) => a - b);
    return [what, sorted[Math.floor(sorted.length / 2)]!] as const;
  });
  return { ...roundTrips, ...Object.fromEntries(medians) };
}
