import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { startScriptedApp } from '../../support/scripted-app.js';

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});

afterAll(() => database.drop());

describe('a DataSource that typeorm-transactional manages', () => {
  it('is found at boot, and what to use instead is said once', async () => {
    const dataSource = await new DataSource({ type: 'postgres', url: database.url }).initialize();
    try {
      const before = await startScriptedApp(dataSource, 'express');
      expect(before.logs).toEqual([]);
      await before.close();

      Object.assign(dataSource, { '@transactional/data-source': 'default' }); // as addTransactionalDataSource() does
      const [first, second] = [
        await startScriptedApp(dataSource, 'express'),
        await startScriptedApp(dataSource, 'express'),
      ];
      expect(first.logs).toEqual([
        expect.stringMatching(
          /runOnTransactionCommit.*IdempotencyService\.afterCommit.*REQUIRES_NEW.*outsideTransaction/s,
        ),
      ]);
      expect(second.logs).toEqual([]);
      await first.close();
      await second.close();
    } finally {
      await dataSource.destroy();
    }
  });
});
