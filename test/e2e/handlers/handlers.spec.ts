import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { handlersOf, PROVIDERS } from './controllers.js';

const MODES = ['transaction', 'lease'] as const;
const REPLAYED = 'Idempotency-Replayed: true';

describe.each(ADAPTERS)('every way to be a handler, on %s', (adapter) => {
  let app: TestApp;

  beforeAll(async () => {
    app = await createTestApp({ adapter, controllers: MODES.flatMap(handlersOf), providers: PROVIDERS });
  });
  afterAll(() => app.close());

  const effectsOf = async (label: string) => (await app.effects()).filter((effect) => effect === label).length;

  describe.each(MODES)('in %s mode', (mode) => {
    it.each([
      ['returns a function, with @Idempotent() above', 'above'],
      ['returns a function, with @Idempotent() below', 'below'],
      ['returns a function, with @Idempotent() on its class', 'class/one'],
      ['is one of several, with @Idempotent() above', 'each-above'],
      ['is one of several, with @Idempotent() below', 'each-below'],
      ['is one of several, with @Idempotent() on their class', 'class/each'],
      ['is one of several that share nothing with their method', 'each-bare'],
      ['returns a function to an unknown interceptor inside', 'unknown-below'],
      ['was inherited from a class that is not idempotent', 'heir/inherited'],
      ['a subclass adds', 'heir/added'],
      ['a subclass decorates anew', 'heir/again'],
      ['a decorator of the class makes', 'heir/crud'],
    ])('runs once and is replayed where it %s', async (_, path) => {
      const label = `${mode} ${path}`;
      const first = await app.post(`/${mode}/${path}`, label, { label });
      const retry = await app.post(`/${mode}/${path}`, label, { label });
      expect([first.status, retry.status]).toEqual([201, 201]);
      expect(JSON.parse(first.body.toString())).toEqual({ label });
      expect(first.headerLines).not.toContain(REPLAYED);
      expect(retry.headerLines).toContain(REPLAYED);
      expect(retry.body).toEqual(first.body);
      expect(await effectsOf(label)).toBe(1);

      const failing = { label: `failing ${label}`, fail: true };
      expect((await app.post(`/${mode}/${path}`, `failing ${label}`, failing)).status).toBe(500);
      expect(await effectsOf(failing.label)).toBe(mode === 'transaction' ? 0 : 1);

      const bare = await app.request({ method: 'POST', path: `/${mode}/${path}` });
      expect(bare.status).toBe(400); // it requires a key
    });

    it.each(['each-above', 'each-below', 'each-bare', 'class/each', 'heir/inherited'])(
      'leaves what is safe alone: GET %s',
      async (path) => {
        const answer = await app.request({ method: 'GET', path: `/${mode}/${path}` });
        expect(answer.status).toBe(200);
      },
    );

    it('refuses what an unknown interceptor outside would run, before it runs, with what to do', async () => {
      const label = `${mode} unknown`;
      const before = app.logs.length;
      const answer = await app.post(`/${mode}/unknown-above`, label, { label });
      expect(answer.status).toBe(500);
      expect(app.logs.slice(before).join()).toContain(
        'Put @Idempotent() below the decorator that attaches that interceptor',
      );
      expect(await effectsOf(label)).toBe(0);
    });

    it('leaves a sister alone that has inherited the same handler', async () => {
      const label = `${mode} sister`;
      const answer = await app.request({
        method: 'POST',
        path: `/${mode}/sister/inherited`,
        headers: [['Content-Type', 'application/json']],
        body: JSON.stringify({ label }),
      });
      expect(answer.status).toBe(201);
      expect(await effectsOf(label)).toBe(1);
    });
  });
});
