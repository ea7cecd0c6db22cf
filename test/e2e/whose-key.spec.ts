import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { INestApplication } from '@nestjs/common';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { GlobalGuard, whoseKeyControllers } from './whose-key.controllers.js';

const MODES = ['transaction', 'lease'] as const;
const REPLAYED = 'Idempotency-Replayed: true';

describe.each(ADAPTERS)('whose key it is, on %s', (adapter) => {
  let app: TestApp;

  beforeAll(async () => {
    app = await createTestApp({
      adapter,
      instances: 1, // what is said once is said once a process
      controllers: MODES.map(whoseKeyControllers),
      idempotency: { scope: undefined },
      configure: (application: INestApplication) => void application.useGlobalGuards(new GlobalGuard()),
    });
  });
  afterAll(() => app.close());

  const newLogs = async <T>(work: () => Promise<T>): Promise<[T, string[]]> => {
    const before = app.logs.length;
    return [await work(), app.logs.slice(before)];
  };

  describe.each(MODES)('in %s mode', (mode) => {
    const asUser = (user: unknown): [string, string][] => [['X-User', JSON.stringify(user)]];
    const asAccount = (id: string): [string, string][] => [['X-Account', id]];

    it.each([
      ['the Passport chapter of NestJS', { userId: 7, username: 'ann' }, { userId: 8, username: 'ann' }],
      ['a database', { id: 'a', name: 'ann' }, { id: 'b', name: 'ann' }],
      ['a token', { sub: 's1', email: 'ann@example.com' }, { sub: 's2', email: 'ann@example.com' }],
      ['snake case', { user_id: 'u1' }, { user_id: 'u2' }],
      ['Firebase', { uid: 'f1' }, { uid: 'f2' }],
      ['a UUID of its own', { uuid: '0198-1' }, { uuid: '0198-2' }],
    ])('is the user’s, as in %s', async (what, one, other) => {
      const key = `${mode}, user of ${what}`;
      const first = await app.post(`/${mode}/user`, key, { label: key }, asUser(one));
      const retry = await app.post(`/${mode}/user`, key, { label: key }, asUser(one));
      const others = await app.post(`/${mode}/user`, key, { label: key }, asUser(other));

      expect([first.status, retry.status, others.status]).toEqual([201, 201, 201]);
      expect(retry.body).toEqual(first.body);
      expect(retry.headerLines).toContain(REPLAYED);
      expect(others.headerLines).not.toContain(REPLAYED);
    });

    it.each([
      ['none of the usual names', { username: 'ann' }, 'request.user has none of `id`, `sub`, `userId`'],
      ['an id that is an object', { userId: { $ne: 1 } }, 'request.user has an `userId` that is neither a number nor'],
    ])('is an error that names the remedy for a user with %s', async (_, user, message) => {
      const [response, logs] = await newLogs(() => app.post(`/${mode}/user`, 'odd', { label: 'odd' }, asUser(user)));
      expect(response.status).toBe(500);
      expect(logs).toEqual([expect.stringContaining(message)]);
      expect(logs[0]).toContain('Set the option `scope` of @Idempotent() or IdempotencyModule');
      expect(await app.effects()).not.toContain('odd');
    });

    it('is everybody’s behind a guard that sets something else, which the first such request of a route says', async () => {
      const [, logs] = await newLogs(async () => {
        await app.post(`/${mode}/account`, 'a1', { label: 'a1' }, asAccount('one'));
        await app.post(`/${mode}/account`, 'a2', { label: 'a2' }, asAccount('two'));
      });
      expect(logs).toEqual([expect.stringContaining(`A request to WhoseKey_${mode}.account has no \`request.user\``)]);
      expect(logs[0]).toContain("scope: () => ''");
    });

    it('is an error there where `sharedScope` says so, and runs nothing', async () => {
      const [response, logs] = await newLogs(() => app.post(`/${mode}/strict`, 's', { label: `strict ${mode}` }));
      expect(response.status).toBe(500);
      expect(logs).toEqual([expect.stringContaining(`A request to WhoseKey_${mode}.strict has no \`request.user\``)]);
      expect(await app.effects()).not.toContain(`strict ${mode}`);
    });

    it('is everybody’s without a word where `scope` says that it is meant', async () => {
      const [[first, retry], logs] = await newLogs(async () => [
        await app.post(`/${mode}/meant`, `meant ${mode}`, { label: 'm' }, asAccount('one')),
        await app.post(`/${mode}/meant`, `meant ${mode}`, { label: 'm' }, asAccount('two')),
      ]);
      expect(retry!.body).toEqual(first!.body);
      expect(logs).toEqual([]);
    });

    it('is whose `scope` says', async () => {
      const [[first, others], logs] = await newLogs(async () => [
        await app.post(`/${mode}/own`, `own ${mode}`, { label: 'o' }, asAccount('one')),
        await app.post(`/${mode}/own`, `own ${mode}`, { label: 'o' }, asAccount('two')),
      ]);
      expect([first!.status, others!.status]).toEqual([201, 201]);
      expect(others!.body).not.toEqual(first!.body);
      expect(logs).toEqual([]);
    });

    describe('a key from the body', () => {
      const deliver = (id: unknown, rest: object = {}) =>
        app.request({
          method: 'POST',
          path: `/${mode}/event`,
          headers: [['Content-Type', 'application/json']],
          body: JSON.stringify({ id, ...rest }),
        });

      it('is a text, in which a quote is a character as any other', async () => {
        const bare = await deliver(`${mode} ev1`);
        const quoted = await deliver(`"${mode} ev1"`);
        const open = await deliver(`"${mode} ev1`);
        expect([bare.status, quoted.status, open.status]).toEqual([201, 201, 201]);
        expect(new Set([bare, quoted, open].map(({ body }) => body.toString())).size).toBe(3);
        expect((await deliver(`"${mode} ev1"`)).body).toEqual(quoted.body);
      });

      it('is refused when it is no text', async () => {
        expect((await deliver({ toString: 'ev1' })).status).toBe(400);
        expect((await deliver(7)).status).toBe(400);
        expect((await deliver('')).status).toBe(400);
        expect((await deliver(null)).status).toBe(400);
        expect((await deliver('ž')).status).toBe(400);
      });

      it('takes a redelivery that differs in the fields to omit for the same event, and no other', async () => {
        const event = { type: 'paid', meta: { sentAt: 1, source: 'x' }, attempts: [{ at: 1, by: 'a' }] };
        const first = await deliver(`${mode} ev2`, event);
        const again = { ...event, meta: { sentAt: 2, source: 'x' }, attempts: [{ at: 2, by: 'a' }] };
        const redelivery = await deliver(`${mode} ev2`, again);
        expect([first.status, redelivery.status]).toEqual([201, 201]);
        expect(redelivery.headerLines).toContain(REPLAYED);

        expect((await deliver(`${mode} ev2`, { ...again, type: 'refunded' })).status).toBe(422);
        expect((await deliver(`${mode} ev2`, { ...again, meta: { sentAt: 2, source: 'y' } })).status).toBe(422);
        expect((await deliver(`${mode} ev2`, { ...again, attempts: [{ at: 2, by: 'b' }] })).status).toBe(422);
      });
    });

    it('is compared by the fields to pick alone', async () => {
      const body = { label: 'p', order: { id: 1, note: 'a' }, items: [{ sku: 'x', price: 1 }], sentAt: 1 };
      const post = (other: object) => app.post(`/${mode}/picked`, `picked ${mode}`, { ...body, ...other });
      expect((await post({})).status).toBe(201);
      const retry = await post({ order: { id: 1, note: 'b' }, items: [{ sku: 'x', price: 2 }], sentAt: 2 });
      expect(retry.headerLines).toContain(REPLAYED);
      expect((await post({ order: { id: 2 } })).status).toBe(422);
      expect((await post({ items: [{ sku: 'y' }] })).status).toBe(422);
      expect((await post({ items: [{ sku: 'x' }, { sku: 'x' }] })).status).toBe(422);
    });
  });
});
