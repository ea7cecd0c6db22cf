import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { TerminusModule } from '@nestjs/terminus';
import { deferred } from '../../../src/util/deferred.js';
import { IdempotencyHealthModule } from '../../../src/terminus/index.js';
import { queriesOn, queryOn } from '../../support/empty-database.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { gate, IntegrationsController } from './integrations.controller.js';

interface Health {
  status: string;
  problems?: string[];
  inFlight?: number;
  expired?: number;
  writable?: boolean;
}

describe.each(ADAPTERS)('the health indicator for @nestjs/terminus on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({
      adapter,
      instances: 1,
      controllers: [IntegrationsController],
      imports: [IdempotencyHealthModule, TerminusModule],
      idempotency: { purge: false },
    });
  });

  beforeEach(async () => {
    gate.entered = deferred();
    gate.opened = deferred();
    await queryOn(test.databaseUrl, 'truncate idempotency_keys');
  });

  afterAll(() => test.close());

  const health = async () => {
    const response = await test.request({ method: 'GET', path: '/health' });
    const { details } = JSON.parse(response.body.toString()) as {
      details: { idempotency: Health };
    };
    return { code: response.status, ...details.idempotency };
  };

  it('is up where keys can be claimed and nothing stays behind', async () => {
    expect(await health()).toEqual({
      code: 200,
      status: 'up',
      inFlight: 0,
      oldestInFlightMs: 0,
      writable: true,
      expired: 0,
      purgeLagMs: 0,
      waiting: 0,
    });
  });

  it('is down where the purge is behind', async () => {
    await test.post('/payments', 'k');
    await queryOn(
      test.databaseUrl,
      `update idempotency_keys set created_at = '2020-01-01', expires_at = now() - interval '2 hours'`,
    );
    const { code, problems, expired } = await health();
    expect([code, problems, expired]).toEqual([503, ['the purge is more than 3600000 ms behind'], 1]);
  });

  it('is down where a request is under way for too long', async () => {
    const running = test.post('/slow', 'k');
    await gate.entered.promise;
    const found = await waitFor(
      async () => {
        const now = await health();
        return now.code === 503 ? now : undefined;
      },
      { what: 'the request to be too old' },
    );
    expect([found.problems, found.inFlight]).toEqual([['a request is under way for more than 50 ms'], 1]);
    gate.opened.resolve();
    await running;
  });

  it('is down where the server takes no writes, or the tables are not there', async () => {
    const name = new URL(test.databaseUrl).pathname.slice(1);
    await queryOn(test.databaseUrl, `alter database ${name} set default_transaction_read_only = on`);
    await queryOn(
      test.databaseUrl,
      'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
    );
    const readOnly = await waitFor(
      async () => {
        const now = await health();
        return now.writable === false ? now : undefined;
      },
      { what: 'new sessions' },
    );
    expect([readOnly.code, readOnly.problems]).toEqual([503, ['the server takes no writes']]);
    await queriesOn(test.databaseUrl, [
      'set default_transaction_read_only = off',
      `alter database ${name} reset default_transaction_read_only`,
      'alter table idempotency_keys rename to hidden',
    ]);
    expect((await health()).problems).toEqual(['the store is out of reach, or its tables are']);
    await queriesOn(test.databaseUrl, [
      'set default_transaction_read_only = off',
      'alter table hidden rename to idempotency_keys',
    ]);
  });
});
