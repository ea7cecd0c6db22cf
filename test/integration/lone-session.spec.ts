import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { ClientBase, Pool } from 'pg';
import { DataSource } from 'typeorm';
import { LoneSession } from '../../src/postgres/lone-session.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';

let database: TestDatabase;
let dataSource: DataSource;

const onConnect = async (client: ClientBase): Promise<void> => {
  await client.query('set search_path to tenants');
};

beforeAll(async () => {
  database = await createTestDatabase();
  dataSource = await new DataSource({ type: 'postgres', url: database.url, extra: { onConnect } }).initialize();
});

afterAll(async () => {
  await dataSource.destroy();
  await database.drop();
});

describe('a session beside the pool', () => {
  it('is set up as those of the pool are', async () => {
    const { master: pool } = dataSource.driver as unknown as { master: Pool };
    pool.on('connect', (client) => void client.query('set statement_timeout to 4321'));
    const session = await LoneSession.open(dataSource, 5_000);
    try {
      const { rows } = await session.client.query(
        `select current_setting('search_path') as path, current_setting('statement_timeout') as "limit"`,
      );
      expect(rows).toEqual([{ path: 'tenants', limit: '4321ms' }]);
    } finally {
      session.destroy();
    }
  });
});
