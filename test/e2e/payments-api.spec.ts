import type { AddressInfo } from 'node:net';
import type { INestApplication } from '@nestjs/common';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { createPaymentsApp } from '../../examples/payments/app.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { send as sendTo, type Json } from '../support/json-api.js';
import { INSTANCES, inTurn, throughPooler } from '../support/test-app.js';

/** Nothing in here calls the provider: payments-side-effects.spec.ts has what does. */
const NO_PROVIDER = 'http://127.0.0.1:1';

describe.each(['express', 'fastify'] as const)('the payments API on %s', (adapter) => {
  let database: TestDatabase;
  const apps: INestApplication[] = [];
  let nextPort: () => number;

  beforeAll(async () => {
    database = await createTestDatabase();
    while (apps.length < INSTANCES) {
      const app = await createPaymentsApp({
        adapter,
        databaseUrl: throughPooler(database.url),
        providerUrl: NO_PROVIDER,
      });
      app.useLogger(false); // The failures below are asked for.
      await app.listen(0, '127.0.0.1');
      apps.push(app);
    }
    nextPort = inTurn(apps.map((app) => (app.getHttpServer().address() as AddressInfo).port));
  });

  afterAll(async () => {
    for (const app of apps) await app.close();
    await database.drop();
  });

  const send = (method: string, path: string, key?: string, body?: object | string, type?: string) =>
    sendTo(nextPort(), method, path, key, body, type);
  const list = async (path: string) => (await send('GET', path)).json as unknown as Json[];

  const PAYMENT = { amount: 1000, currency: 'EUR', destination: 'acct_1' };

  it.each([
    ['customers', 'customer_id'],
    ['users', 'user_id'],
  ])('POST /%s answers with a Location that leads there, and replays it', async (collection, idName) => {
    const ada = { name: 'Ada', email: 'ada@example.com' };
    const first = await send('POST', `/${collection}`, `${collection}-1`, ada);
    expect(first.status).toBe(201);
    expect(first.json).toMatchObject(ada);
    expect(first.location).toBe(`/${collection}/${String(first.json[idName])}`);

    const retry = await send('POST', `/${collection}`, `${collection}-1`, ada);
    expect(retry).toMatchObject({ status: 201, replayed: true, location: first.location });
    expect(retry.response.body).toEqual(first.response.body);
    expect((await send('GET', first.location!)).json).toEqual(first.json);
  });

  it('POST /users leaves the key usable when the body is invalid', async () => {
    const invalid = await send('POST', '/users', 'users-2', { name: 'Bob', email: 'bob' });
    expect(invalid).toMatchObject({ status: 400, json: { message: ['email must be an email'] } });
    const valid = await send('POST', '/users', 'users-2', { name: 'Bob', email: 'bob@example.com' });
    expect(valid).toMatchObject({ status: 201, replayed: false });
  });

  it('PATCH /customers/:id changes what is given, once', async () => {
    const { location } = await send('POST', '/customers', 'patch-1', { name: 'Eve', email: 'eve@example.com' });
    const changed = await send('PATCH', location!, 'patch-2', { name: 'Eva' });
    expect(changed).toMatchObject({ status: 200, json: { name: 'Eva', email: 'eve@example.com' } });
    await send('PATCH', location!, 'patch-3', { name: 'Evita' });

    expect(await send('PATCH', location!, 'patch-2', { name: 'Eva' })).toMatchObject({ replayed: true });
    expect((await send('GET', location!)).json['name']).toBe('Evita');
    expect((await send('PATCH', location!, 'patch-4', { name: null })).status).toBe(400);
  });

  it('POST /payments stores a decline and pays nothing', async () => {
    const before = await list('/payments');
    const body = { ...PAYMENT, amount: 10_001 };
    const declined = await send('POST', '/payments', 'declined-1', body);
    expect(declined).toMatchObject({ status: 402, replayed: false });
    const retry = await send('POST', '/payments', 'declined-1', body);
    expect(retry).toMatchObject({ status: 402, replayed: true, json: declined.json });
    expect(await list('/payments')).toEqual(before);
  });

  it.each([
    [{ amount: 0 }, 'amount must not be less than 1'],
    [{ amount: 1.5 }, 'amount must be an integer number'],
    [{ amount: '10' }, 'amount must be an integer number'],
    [{ currency: 'euro' }, 'currency must be three capital letters, such as EUR'],
    [{ destination: '' }, 'destination should not be empty'],
  ])('POST /payments refuses %j', async (wrong, message) => {
    const answer = await send('POST', '/payments', 'invalid', { ...PAYMENT, ...wrong });
    expect(answer.status).toBe(400);
    expect(answer.json['message']).toContain(message);
  });

  it.each([
    ['POST', '/payments'],
    ['POST', '/payments?delay_ms=soon'],
    ['POST', '/payments/1/refunds'],
    ['PATCH', '/customers/1'],
    ['POST', '/uploads'],
  ])('%s %s without what it needs is refused', async (method, path) => {
    expect((await send(method, path, 'incomplete')).status).toBe(400);
    expect((await send(method, path, 'incomplete', { file: 'not one', name: 'x' })).status).toBe(400);
  });

  it('POST /payments with a failure after the writes leaves neither payment nor ledger entry', async () => {
    const before = [await list('/payments'), await list('/ledger')];
    const failed = await send('POST', '/payments?fail=after-write', 'failing', PAYMENT);
    expect(failed.status).toBe(500);
    expect([await list('/payments'), await list('/ledger')]).toEqual(before);
    expect((await send('POST', '/payments', 'failing', PAYMENT)).status).toBe(201);
  });

  it('POST /payments/:id/refunds refunds once, and no more than was paid', async () => {
    const { json } = await send('POST', '/payments', 'refunded', PAYMENT);
    const path = `/payments/${String(json['payment_id'])}/refunds`;
    const first = await send('POST', path, 'refund-1', { amount: 600 });
    expect(first).toMatchObject({ status: 201, json: { payment_id: json['payment_id'], amount: 600 } });
    expect(await send('POST', path, 'refund-1', { amount: 600 })).toMatchObject({ replayed: true, json: first.json });
    expect((await send('POST', path, 'refund-2', { amount: 600 })).status).toBe(409);
    const unknown = path.replace(/[0-9a-f]{4}\/refunds/, '0000/refunds');
    expect((await send('POST', unknown, 'refund-3', { amount: 1 })).status).toBe(404);

    const booked = (await list('/ledger')).filter((entry) => entry['payment_id'] === json['payment_id']);
    expect(booked.map(({ amount }) => amount)).toEqual([1000, -600]);
  });

  it('POST /uploads stores a file once, and tells another content from a retry', async () => {
    const form = (content: string, boundary: string) =>
      [
        `--${boundary}`,
        'Content-Disposition: form-data; name="file"; filename="a.txt"',
        'Content-Type: text/plain',
        '',
        content,
        `--${boundary}--`,
        '',
      ].join('\r\n');
    const upload = (content: string, boundary = 'b') =>
      send('POST', '/uploads', 'upload', form(content, boundary), `multipart/form-data; boundary=${boundary}`);

    const first = await upload('hello');
    expect(first).toMatchObject({ status: 201, json: { filename: 'a.txt', bytes: 5 } });
    // A client makes up a new boundary for every attempt.
    expect(await upload('hello', 'c')).toMatchObject({ status: 201, replayed: true, json: first.json });
    expect((await upload('other')).status).toBe(422);
  });
});
