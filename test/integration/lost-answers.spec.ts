import { Controller, Post } from '@nestjs/common';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { Pool } from 'pg';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { CountingProxy } from '../support/counting-proxy.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

let proxy: CountingProxy;

@Controller()
class Routes {
  @Post('transaction')
  @Idempotent({ timeoutMs: 300 })
  async transaction(@IdempotencyContext() context: IdempotencyContext): Promise<void> {
    proxy.swallowAnswers();
    await context.manager.query('select 1');
  }

  @Post('step')
  @Idempotent({ mode: 'lease', timeoutMs: 300 })
  async step(@IdempotencyContext() context: IdempotencyContext): Promise<void> {
    await context.transaction('write', async (manager) => {
      proxy.swallowAnswers();
      await manager.query('select 1');
    });
  }
}

describe('where the network swallows every answer of PostgreSQL', () => {
  let database: TestDatabase;
  let test: TestApp;

  beforeEach(async () => {
    database = await createTestDatabase();
    proxy = await CountingProxy.start(database.url);
    test = await createTestApp({
      adapter: 'express',
      controllers: [Routes],
      databaseUrl: proxy.url,
      instances: 1,
      idempotency: { purge: false },
    });
  });

  afterEach(async () => {
    await test.close();
    await proxy.stop();
    await database.drop();
  });

  it.each(['transaction', 'step'])('the connection of a %s is given up in time', async (path) => {
    const { master: pool } = test.dataSource.driver as unknown as { master: Pool };
    expect((await test.post(`/${path}`, 'k')).status).toBe(503);
    await waitFor(() => pool.totalCount === pool.idleCount, { what: 'the pool to have all of its connections' });
  });
});
