/**
 * Throughput and round trips of a route over the tables of one server, whatever they are, in a table:
 *
 *   DATABASE_URL=postgres://… node --import @swc-node/register/esm-register test/citus/measure.ts [requests]
 *
 * The database has the library's tables and one of `orders` as they are to be measured; compare servers that stand
 * beside each other on the machine, one after the other.
 */
import { randomUUID } from 'node:crypto';
import { TypeOrmModule } from '@nestjs/typeorm';
import { CountingProxy } from '../support/counting-proxy.js';
import { createTestApp } from '../support/test-app.js';
import { Order, ShopController } from './shop.js';

const CLIENTS = 16;
const requests = Number(process.argv[2] ?? 2_000);
const databaseUrl = process.env['DATABASE_URL'] ?? '';

const proxy = await CountingProxy.start(databaseUrl);
const options = {
  adapter: 'express' as const,
  controllers: [ShopController],
  entities: [Order],
  imports: [TypeOrmModule.forFeature([Order])],
  idempotency: { purge: false as const, localWrites: true },
  instances: 1 as const,
};
const counted = await createTestApp({ ...options, databaseUrl: proxy.url });
const direct = await createTestApp({ ...options, databaseUrl });
try {
  const rows = [];
  for (const path of ['/orders', '/leases']) {
    await counted.post(path, randomUUID());
    const key = randomUUID();
    const first = await proxy.count(() => counted.post(path, key));
    const replay = await proxy.count(() => counted.post(path, key));
    const keys = Array.from({ length: requests }, () => randomUUID());
    await perSecond(path, keys.map(() => randomUUID()).slice(0, requests / 4)); // warm
    rows.push({
      path,
      'round trips, first': first,
      'round trips, replay': replay,
      'first/s': await perSecond(path, keys),
      'replays/s': await perSecond(path, keys),
    });
  }
  console.table(rows);
} finally {
  await counted.close();
  await direct.close();
  await proxy.stop();
}

async function perSecond(path: string, keys: string[]): Promise<number> {
  const left = [...keys];
  const startedAt = performance.now();
  const client = async (): Promise<void> => {
    for (let key = left.pop(); key !== undefined; key = left.pop()) {
      const { status } = await direct.post(path, key);
      if (status !== 201) {
        throw new Error(`${path} was answered with ${status}`);
      }
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, client));
  return Math.round((keys.length * 1_000) / (performance.now() - startedAt));
}
