import { describe, expect, it } from '@jest/globals';
import { IdempotencyService } from '../../../src/index.js';
import type { RawRequest } from '../../support/raw-http.js';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { collectLogs } from './collect-logs.js';
import { Authentication } from './house.js';
import { onTheWire } from './on-the-wire.js';

describe.each(ADAPTERS)('on the wire, with %s', (adapter) => {
  const { application, send, runs } = onTheWire(adapter);

  describe('the scope', () => {
    const as = (user: unknown, given: Partial<RawRequest> = {}) => ({
      ...given,
      headers: [['X-User', JSON.stringify(user)] as const],
    });
    const find = (key: string, scope: string) => application().app.get(IdempotencyService).find(key, scope);

    it.each([
      ['id', { id: 'alice', sub: 'not this one' }, 'alice'],
      ['id that is a number', { id: 0 }, '0'],
      ['sub', { sub: 'auth0|bob' }, 'auth0|bob'],
    ])("is the user's %s", async (what, user, scope) => {
      const key = `scope by ${what}`;
      expect((await send('/users/default', key, as(user))).status).toBe(201);
      expect(await find(key, scope)).toMatchObject({ status: 201 });
    });

    it('is shared by requests without a user', async () => {
      expect((await send('/users/default', 'no-user')).status).toBe(201);
      expect(await find('no-user', '')).toMatchObject({ status: 201 });
    });

    it('is what the resolver says', async () => {
      const first = await send('/users/resolved', 'tenant', as({ tenant: 'acme', id: 1 }));
      expect(await send('/users/resolved', 'tenant', as({ tenant: 'acme', id: 2 }))).toEqual(replayOf(first));
      expect(await find('tenant', 'acme')).toMatchObject({ status: 201 });
    });

    it.each([
      ['neither id nor sub', '/users/default', { name: 'eve' }],
      ['an empty id', '/users/default', { id: '', sub: 'x' }],
      ['an id that is an object', '/users/default', { id: { $ne: 1 } }],
      ['an id that is no number after all', '/users/default', { id: 'NaN' }],
      ['an id with half a character', '/users/default', { id: 'eve\ud800' }],
      ['a resolver without an answer', '/users/resolved', { id: 1 }],
      ['a resolver with an answer that is too long', '/users/resolved', { tenant: 'x'.repeat(256) }],
      ['a resolver with an answer that cannot be stored', '/users/resolved', { tenant: 'a\0b' }],
    ])('is an error that names the remedy, and runs nothing: %s', async (what, path, user) => {
      const logged = collectLogs();
      const response = await send(path, `scope: ${what}`, as(user));
      expect(response.status).toBe(500);
      expect(await runs(`scope: ${what}`)).toBe(0);
      expect(logged).toEqual([expect.stringContaining('Set the option `scope` of @Idempotent() or IdempotencyModule')]);
    });

    it('keeps the answers of two users with the same key apart', async () => {
      const alice = await send('/users/default', 'shared-key', as({ id: 'alice' }));
      const bob = await send('/users/default', 'shared-key', as({ id: 'bob' }));
      expect([alice.status, bob.status]).toEqual([201, 201]);
      expect(lines(bob, 'Idempotency-Replayed')).toEqual([]);
      expect(json(bob)['id']).not.toBe(json(alice)['id']);
      expect(await send('/users/default', 'shared-key', as({ id: 'alice' }))).toEqual(replayOf(alice));
      expect(await send('/users/default', 'shared-key', as({ id: 'bob' }))).toEqual(replayOf(bob));

      const other = { body: '{"label":"shared-key","other":1}' };
      expect((await send('/users/default', 'shared-key', as({ id: 'carol' }, other))).status).toBe(201);
    });

    it('comes behind the guards: who may no longer do it does not get the replay', async () => {
      const user = as({ id: 'dave' });
      const first = await send('/users/default', 'guarded', user);
      Authentication.revoked.add(JSON.stringify({ id: 'dave' }));
      const refused = await send('/users/default', 'guarded', user);
      expect(refused.status).toBe(403);
      expect(lines(refused, 'Idempotency-Replayed')).toEqual([]);
      expect(refused.body.includes(first.body)).toBe(false);

      Authentication.revoked.clear();
      expect(await send('/users/default', 'guarded', user)).toEqual(replayOf(first));
      expect(await runs('guarded')).toBe(1);
    });
  });
});
