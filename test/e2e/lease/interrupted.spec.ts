import { describe, expect, it } from '@jest/globals';
import { deferred } from '../../../src/util/deferred.js';
import type { RawResponse } from '../../support/raw-http.js';
import { headerOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { leaseModeOn } from './lease-mode-on.js';
import { provider, scripts } from './lease.controller.js';

describe.each(ADAPTERS)('lease mode on %s', (adapter) => {
  const { application, other, service, call, steps, expireLease, holding } = leaseModeOn(adapter);

  describe("with onInterrupted: 'fail'", () => {
    /** A handler that has begun and never ended. */
    async function interrupted(key: string): Promise<void> {
      const never = deferred();
      scripts['charge'] = async (context) => {
        await context.step('charge', () => call('charge'));
        if (context.attempt === 1) await never.promise;
        return { attempt: context.attempt };
      };
      expect((await application().post('/fail/charge', key)).status).toBe(503); // its time is up
      expect((await application().post('/fail/charge', key)).status).toBe(409);
      await expireLease(key);
    }

    const problemOf = ({ status, body }: RawResponse) => [status, JSON.parse(body.toString()).type];
    const unknown = [409, 'urn:nestjs-idempotency:outcome-unknown'];

    it('answers 409 with a problem of its own, for as long as nobody decides', async () => {
      await interrupted('k');
      for (const instance of [application(), other()]) {
        const answer = await instance.post('/fail/charge', 'k');
        expect(problemOf(answer)).toEqual(unknown);
        expect(headerOf(answer, 'retry-after')).toBeUndefined();
      }
      expect(await service().find('k')).toMatchObject({ state: 'interrupted', attempt: 1, steps: ['charge'] });
      expect((await service().find('k'))!.expiresAt).toBeUndefined();
      expect(await service().purge()).toBe(0);
      expect(provider).toEqual(['charge']);
    });

    it('lets an operator resolve it', async () => {
      await interrupted('k');
      expect(await service().resolve('k', { status: 200, headers: { 'X-By': 'hand' }, body: { id: 7 } })).toBe(true);
      expect(await service().resolve('k', { status: 200 })).toBe(false);
      const answer = await other().post('/fail/charge', 'k');
      expect([answer.status, headerOf(answer, 'x-by'), answer.body.toString()]).toEqual([200, 'hand', '{"id":7}']);
      expect(headerOf(answer, 'content-type')).toBe('application/json; charset=utf-8');
      expect(headerOf(answer, 'idempotency-replayed')).toBe('true');
      expect(await steps()).toEqual([]);
      await expect(service().resolve('k', { status: 500 })).rejects.toThrow('200 to 499');
    });

    it('lets an operator release it', async () => {
      await interrupted('k');
      expect(await service().release('k')).toBe(true);
      const answer = await other().post('/fail/charge', 'k');
      expect([answer.status, answer.body.toString()]).toEqual([201, '{"attempt":2}']);
      expect(provider).toEqual(['charge']);
      expect(await service().release('k')).toBe(false);
    });

    it('neither resolves nor releases what is running', async () => {
      const { running, letGo } = await holding('/run/slow', 'k');
      expect(await service().release('k')).toBe(false);
      expect(await service().resolve('k', { status: 200 })).toBe(false);
      letGo();
      expect((await running).status).toBe(201);
    });

    it.each([
      ['a Uint8Array', new Uint8Array([0, 255, 13, 10]), [0, 255, 13, 10]],
      ['a part of a buffer', new Uint16Array([1, 2, 3]).subarray(1, 2), [2, 0]],
      ['an ArrayBuffer', new Uint8Array([7]).buffer, [7]],
      ['an empty text', '', []],
    ])('replays %s as the bytes that it is', async (_, body, bytes) => {
      await interrupted('k');
      expect(await service().resolve('k', { status: 200, headers: { 'Content-Type': 'image/png' }, body })).toBe(true);
      const replay = await application().post('/fail/charge', 'k');
      expect([headerOf(replay, 'Content-Type'), [...replay.body]]).toEqual(['image/png', bytes]);
    });

    it.each([204, 205, 304])('replays a %d without a body, and takes none', async (status) => {
      await interrupted('k');
      await expect(service().resolve('k', { status, body: { id: 7 } })).rejects.toThrow(`status ${status} has no body`);
      expect(await service().resolve('k', { status })).toBe(true);
      const replay = await application().post('/fail/charge', 'k');
      expect([replay.status, replay.body.length]).toEqual([status, 0]);
    });

    it('says so where a body has no JSON, and leaves the key as it is', async () => {
      await interrupted('k');
      const cycle: Record<string, unknown> = {};
      cycle['self'] = cycle;
      for (const body of [() => 1, Symbol('s'), 1n, cycle]) {
        await expect(service().resolve('k', { status: 200, body })).rejects.toThrow('The body has no JSON');
      }
      expect((await service().find('k'))?.state).toBe('interrupted');
    });
  });
});
