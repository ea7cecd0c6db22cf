import { Controller, Post } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { queryOn } from '../support/empty-database.js';
import type { RawResponse } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

let ran: string[];
let beforeStep: () => Promise<unknown>;

@Controller()
class Routes {
  @Post('transaction')
  @Idempotent()
  transaction(): string {
    ran.push('transaction');
    return 'done';
  }

  @Post('lease')
  @Idempotent({ mode: 'lease' })
  async lease(@IdempotencyContext() context: IdempotencyContext): Promise<string> {
    ran.push('lease');
    await beforeStep();
    return context.transaction('only', () => {
      ran.push('step');
      return 'done';
    });
  }
}

const isReplay = ({ headerLines }: RawResponse) =>
  headerLines.some((line) => /^idempotency-replayed: true$/i.test(line));

/** As a standby is that was a primary a moment ago. */
describe.each(ADAPTERS)('a server that takes no writes, on %s,', (adapter) => {
  let database: TestDatabase;
  let test: TestApp;
  let other: TestApp;

  beforeAll(async () => {
    database = await createTestDatabase();
    const options = { adapter, databaseUrl: database.url, controllers: [Routes] };
    test = await createTestApp(options);
    other = await createTestApp(options);
  });

  beforeEach(() => {
    ran = [];
    beforeStep = async () => undefined;
  });

  afterEach(async () => {
    await takeWrites(true);
    await queryOn(database.url, 'truncate idempotency_keys, idempotency_steps');
  });

  afterAll(async () => {
    await test.close();
    await other.close();
    await database.drop();
  });

  /** From the next connection on; those that there are are closed. */
  const takeWrites = async (yes: boolean): Promise<void> => {
    await queryOn(
      database.url,
      `begin read write; alter database ${database.name} set default_transaction_read_only = ${yes ? 'off' : 'on'}; commit;
       select pg_terminate_backend(pid) from pg_stat_activity
       where datname = '${database.name}' and pid <> pg_backend_pid()`,
    );
    // A pooler notices what has become of its sessions by their next use.
    const setting = `select current_setting('default_transaction_read_only') = '${yes ? 'off' : 'on'}' as is_set`;
    for (const { dataSource } of [test, other]) {
      const isSet = (): Promise<boolean> =>
        dataSource.query(setting).then(
          ([row]) => row.is_set as boolean,
          () => false,
        );
      await waitFor(isSet, { what: 'sessions that know of it' });
    }
  };

  it.each(['transaction', 'lease'])(
    'never runs a handler in mode %s, and does once it takes them again',
    async (mode) => {
      await takeWrites(false);
      for (let retry = 0; retry < 3; retry++) {
        expect((await test.post(`/${mode}`, 'k')).status).toBe(503);
      }
      expect(ran).toEqual([]);
      await takeWrites(true);
      expect((await test.post(`/${mode}`, 'k')).status).toBe(201);
    },
  );

  it.each(['transaction', 'lease'])('still replays what was recorded in mode %s, on any instance', async (mode) => {
    const first = await other.post(`/${mode}`, 'k');
    const before = [...ran];
    await takeWrites(false);
    for (const instance of [test, test, other]) {
      const retry = await instance.post(`/${mode}`, 'k');
      expect([retry.status, retry.body, isReplay(retry)]).toEqual([201, first.body, true]);
      expect((await instance.post(`/${mode}`, 'k', { another: 'payload' })).status).toBe(422);
    }
    expect(ran).toEqual(before);
  });

  it('runs no step whose writes it would refuse', async () => {
    beforeStep = () => takeWrites(false);
    expect((await test.post('/lease', 'k')).status).toBe(503);
    expect(ran).toEqual(['lease']);
  });
});
