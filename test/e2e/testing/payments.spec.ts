import { randomUUID } from 'node:crypto';
import type { INestApplication } from '@nestjs/common';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import request from 'supertest';
import { DataSource } from 'typeorm';
import { createPaymentsApp } from '../../../examples/payments/app.js';
import { LedgerEntry } from '../../../examples/payments/ledger/ledger-entry.entity.js';
import { startFakeProvider } from '../../../examples/payments/provider/fake-provider.js';
import {
  type ClientResponse,
  expectOneOfStorm,
  expectReplay,
  expectReplayAfterLostResponse,
  expectRetryAfterFailedCommit,
  type Operation,
} from '../../../src/testing/index.js';
import { createTestDatabase } from '../../support/database.js';
import { ADAPTERS } from '../../support/test-app.js';

// The tests of the payments example, as its users would write them.
jest.setTimeout(60_000);

const BODY = { amount: 1000, currency: 'EUR', destination: 'acct_1' };
type Client = (app: INestApplication, path: string, key: string, body: object) => () => PromiseLike<ClientResponse>;

const CLIENTS: Record<string, Client> = {
  supertest: (app, path, key, body) => () =>
    request(app.getHttpServer()).post(path).set('Idempotency-Key', key).send(body),
  fetch: (app, path, key, body) => async () =>
    fetch((await app.getUrl()) + path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
      body: JSON.stringify(body),
    }),
  inject: (app, path, key, payload) => () =>
    (app as NestFastifyApplication).inject({
      method: 'POST',
      url: path,
      headers: { 'Idempotency-Key': key },
      payload,
    }),
};

const CELLS = ADAPTERS.flatMap((adapter) =>
  Object.keys(CLIENTS)
    .filter((client) => client !== 'inject' || adapter === 'fastify')
    .map((client) => ({ adapter, client })),
);

describe.each(ADAPTERS)('the payments example on %s', (adapter) => {
  let app: INestApplication;
  let close: () => Promise<void>;

  beforeAll(async () => {
    const database = await createTestDatabase();
    const provider = await startFakeProvider();
    app = await createPaymentsApp({ adapter, databaseUrl: database.url, providerUrl: provider.url });
    app.useLogger(false); // an interrupted request is logged
    await app.listen(0, '127.0.0.1');
    close = async () => {
      await app.close();
      await provider.stop();
      await database.drop();
    };
  });

  afterAll(() => close());

  const countBookings = (): Promise<number> => app.get(DataSource).getRepository(LedgerEntry).count();

  describe.each(CELLS.filter((cell) => cell.adapter === adapter))('by $client', ({ client }) => {
    const pay = (): Operation => ({
      send: CLIENTS[client]!(app, '/payments', randomUUID(), BODY),
      countEffects: countBookings,
    });

    it('books a payment once, and answers a retry with the same bytes', async () => {
      const { status, body } = await expectReplay(pay());
      expect(status).toBe(201);
      expect(JSON.parse(body.toString())).toMatchObject(BODY);
    });

    it('books one payment of a storm of duplicates', async () => {
      expect((await expectOneOfStorm({ ...pay(), requests: 10 })).status).toBe(201);
    });

    it('replays a payment whose response was lost', async () => {
      expect((await expectReplayAfterLostResponse(pay())).status).toBe(201);
    });

    it('books a payment that failed before COMMIT when it is retried', async () => {
      expect((await expectRetryAfterFailedCommit(pay())).status).toBe(201);
    });
  });

  it('remembers that a payment was declined, which books nothing', async () => {
    const send = CLIENTS['fetch']!(app, '/payments', randomUUID(), { ...BODY, amount: 1_000_000 });
    const before = await countBookings();
    let looks = 0;
    const countDeclines = (): number => Math.min(looks++, 1); // nothing tells of one but its answer
    expect((await expectReplay({ send, countEffects: countDeclines })).status).toBe(402);
    expect(await countBookings()).toBe(before);
  });
});
