import { randomUUID } from 'node:crypto';
import { Controller, Post } from '@nestjs/common';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { queryOn } from '../support/empty-database.js';
import { Effect } from '../support/effect.entity.js';
import { PLACES, script, ScriptedController } from '../support/scripted-routes.js';
import { createTestApp, type TestApp } from '../support/test-app.js';

const LEASE_MS = 1_500;

@Controller()
class LeaseController {
  /** Longer than until the lease is renewed, by another connection. */
  @Post('long-step')
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS })
  longStep(@IdempotencyContext() context: IdempotencyContext): Promise<string> {
    return context.transaction('long', async (manager) => {
      await manager.query('select pg_sleep($1)', [LEASE_MS / 2 / 1_000]);
      await manager.save(Effect, { label: 'written' });
      const [{ level }] = await manager.query(`select current_setting('transaction_isolation') as level`);
      return level;
    });
  }
}

describe.each(['repeatable read', 'serializable'] as const)('a server whose default is %s', (level) => {
  let database: TestDatabase;
  let test: TestApp;

  beforeAll(async () => {
    database = await createTestDatabase();
    await queryOn(database.url, `alter database ${database.name} set default_transaction_isolation = '${level}'`);
    const controllers = [ScriptedController, LeaseController];
    test = await createTestApp({ adapter: 'express', controllers, databaseUrl: database.url });
  });

  afterAll(async () => {
    await test.close();
    await database.drop();
  });

  it.each(['plain', ...PLACES])('gives it to a nested transaction that asks for it: %s', async (place) => {
    const name = script((dataSource) =>
      dataSource.transaction(level.toUpperCase() as 'SERIALIZABLE', async (manager) => {
        const [row] = await manager.query(`select current_setting('transaction_isolation') as level`);
        return row.level;
      }),
    );
    expect(String((await test.post(`/${place}/${name}`, randomUUID())).body)).toBe(level);
  });

  it('has a step commit that is longer than until its lease is renewed', async () => {
    const { status, body } = await test.post('/long-step', 'k');
    expect([status, String(body)]).toEqual([201, level]);
    expect(await test.effects()).toEqual(['written']);
  });
});
