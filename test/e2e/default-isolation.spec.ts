import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { PLACES, script, ScriptedController } from '../support/scripted-routes.js';
import { createTestApp, type TestApp } from '../support/test-app.js';

describe('a nested transaction that asks for the level which the server gives by default', () => {
  let test: TestApp;

  beforeAll(async () => {
    const options = '-c default_transaction_isolation=serializable';
    test = await createTestApp({ adapter: 'express', controllers: [ScriptedController], extra: { options } });
  });

  afterAll(() => test.close());

  it.each(['plain', ...PLACES])('has it in the place "%s"', async (place) => {
    const name = script((dataSource) =>
      dataSource.transaction('SERIALIZABLE', async (manager) => {
        const [{ level }] = await manager.query(`select current_setting('transaction_isolation') as level`);
        return level;
      }),
    );
    expect(String((await test.post(`/${place}/${name}`, randomUUID())).body)).toBe('serializable');
  });
});
