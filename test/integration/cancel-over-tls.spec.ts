import { Controller, Post } from '@nestjs/common';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { InjectDataSource } from '@nestjs/typeorm';
import { Socket } from 'node:net';
import { Client, type Pool } from 'pg';
import { DataSource } from 'typeorm';
import { Idempotent } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { createTestApp, type TestApp } from '../support/test-app.js';
import { TlsProxy } from '../support/tls-proxy.js';
import { waitFor } from '../support/wait-for.js';

const TIME_LIMIT_MS = 300;

@Controller()
class Routes {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('transaction')
  @Idempotent({ timeoutMs: TIME_LIMIT_MS })
  async transaction(): Promise<void> {
    await this.dataSource.query('select pg_sleep(60)');
  }
}

let database: TestDatabase;
let observer: Client;
let proxy: TlsProxy;
let test: TestApp;

beforeAll(async () => {
  database = await createTestDatabase();
  observer = new Client(database.url);
  await observer.connect();
  proxy = await TlsProxy.start(database.url);
});

afterAll(async () => {
  proxy.stop();
  await observer.end();
  await database.drop();
});

async function isQuiet(): Promise<boolean> {
  const { rows } = await observer.query(
    `select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and state = 'active' and backend_type = 'client backend'`,
  );
  return rows.length === 0;
}

/** Each is a way in which pg comes to its server other than by a socket of its own making, or in the clear. */
describe.each([
  ['TLS that is asked for', () => ({ port: proxy.port, extra: { ssl: proxy.ssl } })],
  ['TLS from the first byte', () => ({ port: proxy.port, extra: { ssl: proxy.ssl, sslNegotiation: 'direct' } })],
  [
    'TLS on a stream of the application',
    () => ({ port: 1, extra: { ssl: proxy.ssl, stream: () => new ConnectorSocket() } }),
  ],
])('a statement at the time limit of its request, over %s,', (_what, way) => {
  beforeAll(async () => {
    const { port, extra } = way();
    const url = new URL(database.url);
    url.port = String(port);
    test = await createTestApp({
      adapter: 'express',
      controllers: [Routes],
      databaseUrl: url.href,
      extra,
      instances: 1,
      idempotency: { purge: false },
    });
  });

  afterAll(() => test.close());

  it('is cancelled by the same, and the key is usable within a second', async () => {
    const before = proxy.cancelRequests;
    expect((await test.post('/transaction', 'k')).status).toBe(503);
    const since = performance.now();
    await waitFor(isQuiet, { what: 'the statement to be cancelled' });
    await waitFor(async () => (await test.post('/transaction', 'k')).status === 503, { what: 'the key to be usable' });

    expect(performance.now() - since).toBeLessThan(1_000 + TIME_LIMIT_MS);
    expect(proxy.cancelRequests).toBeGreaterThan(before);
    expect(proxy.plain).toBe(0);
    const { master: pool } = test.dataSource.driver as unknown as { master: Pool };
    await waitFor(() => pool.idleCount === pool.totalCount, { what: 'the connections to be back in the pool' });
  });
});

/** As connectors of cloud providers make it: it goes to its own place, wherever pg wants to connect to. */
class ConnectorSocket extends Socket {
  override connect(): this {
    return super.connect(proxy.port, '127.0.0.1');
  }
}
