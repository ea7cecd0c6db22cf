import { describe, expect, it } from '@jest/globals';
import { type RawRequest, withoutVolatile } from '../../support/raw-http.js';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { collectLogs } from './collect-logs.js';
import { onTheWire } from './on-the-wire.js';
import { problem, problemIn, PROBLEMS } from './problems.js';

describe.each(ADAPTERS)('on the wire, with %s', (adapter) => {
  const { cues, send, sendAndHold, runs, rowOf } = onTheWire(adapter);

  describe('a first use', () => {
    it('is answered by the handler, with the key echoed and no marker', async () => {
      const response = await send('/orders', 'first-use');
      expect(response.status).toBe(201);
      expect(json(response)['label']).toBe('first-use');
      expect(lines(response, 'Idempotency-Key')).toEqual(['first-use']);
      expect(lines(response, 'Idempotency-Replayed')).toEqual([]);
    });
  });

  describe('a retry', () => {
    it('gets the same status, headers and bytes, the key and a marker, as often as it comes', async () => {
      const first = await send('/orders', 'replayed');
      for (let attempt = 0; attempt < 3; attempt++) {
        const replay = await send('/orders', 'replayed');
        expect(replay).toEqual(replayOf(first));
        expect(lines(replay, 'Idempotency-Key')).toEqual(['replayed']);
        expect(withoutVolatile(replay.headerLines).toSorted()).toEqual(
          [...withoutVolatile(first.headerLines), 'Idempotency-Replayed: true'].toSorted(),
        );
      }
      expect(await runs('replayed')).toBe(1);
    });

    it('is one also when the members of its JSON come in another order', async () => {
      const first = await send('/orders', 'reordered', { body: '{"label":"reordered","a":1,"b":{"c":2,"d":3}}' });
      const replay = await send('/orders', 'reordered', {
        body: '{ "b": {"d":3, "c":2.0}, "a":1, "label":"reordered" }',
      });
      expect(replay).toEqual(replayOf(first));
    });

    it('is one also when its query parameters come in another order', async () => {
      const first = await send('/orders?a=1&b=2', 'query-order');
      expect(await send('/orders?b=2&a=1', 'query-order')).toEqual(replayOf(first));
    });

    const label = '{"label":"original"}';
    it.each<[string, string, Partial<RawRequest>]>([
      ['method', '/orders', { method: 'PUT' }],
      ['method with a body', '/orders', { method: 'DELETE' }],
      ['path', '/elsewhere', {}],
      ['path parameter', '/orders/8', {}],
      ['query', '/orders?express=true', {}],
      ['payload', '/orders', { body: '{"label":"original","amount":2}' }],
      ['payload by a null', '/orders', { body: '{"label":"original","amount":null}' }],
      [
        'media type',
        '/orders',
        { body: 'label=original', headers: [['Content-Type', 'application/x-www-form-urlencoded']] },
      ],
      ['JSON type', '/orders', { body: '["original"]' }],
    ])('with another %s is refused, and leaves the stored response alone', async (what, path, given) => {
      const key = `mismatch by ${what}`;
      const first = await send('/orders', key, { body: label });
      expect(first.status).toBe(201);
      const before = await rowOf(key);
      const count = await runs('original');

      const refused = await send(path, key, { body: label, ...given });
      expect(problemIn(refused)).toEqual(problem(PROBLEMS.reused));
      expect(lines(refused, 'Idempotency-Key')).toEqual([key]);
      expect(await rowOf(key)).toEqual(before);
      expect(await send('/orders', key, { body: label })).toEqual(replayOf(first));
      expect(await runs('original')).toBe(count);
    });

    it('is told by the path parameter also where the route is the same', async () => {
      const first = await send('/orders/7', 'parameter');
      expect(problemIn(await send('/orders/8', 'parameter'))).toEqual(problem(PROBLEMS.reused));
      expect(await send('/orders/7', 'parameter')).toEqual(replayOf(first));
    });

    it('is told from another request by a fingerprint of the route, with method and path', async () => {
      const body = (note: number, name = 'fingerprinted') => ({ body: JSON.stringify({ label: name, note }) });
      const first = await send('/by-fingerprint', 'fingerprinted', body(1));
      expect(await send('/by-fingerprint?x=1', 'fingerprinted', body(2))).toEqual(replayOf(first));
      expect(problemIn(await send('/by-fingerprint', 'fingerprinted', body(1, 'other')))).toEqual(
        problem(PROBLEMS.reused),
      );
      expect(problemIn(await send('/orders', 'fingerprinted', body(1)))).toEqual(problem(PROBLEMS.reused));
    });

    it('cannot be told by a fingerprint that is undefined: the handler does not run', async () => {
      const logged = collectLogs();
      expect((await send('/without-fingerprint', 'without-fingerprint')).status).toBe(500);
      expect(await runs('without-fingerprint')).toBe(0);
      expect(logged.join()).toContain('fingerprint` resolver returned undefined');
    });

    it('comes too early: 409 with Retry-After, and the first request goes on', async () => {
      const { response, goOn } = await sendAndHold('in-flight');
      const early = await send('/orders', 'in-flight');
      expect(problemIn(early)).toEqual(problem(PROBLEMS.inFlight));
      expect(lines(early, 'Idempotency-Key')).toEqual(['in-flight']);
      goOn();
      const first = await response;
      expect(first.status).toBe(201);
      expect(await send('/orders', 'in-flight')).toEqual(replayOf(first));
      expect(await runs('in-flight')).toBe(1);
    });

    it('runs the handler when the first request failed', async () => {
      cues().fails = true;
      const failed = await send('/orders', 'failed-first');
      expect(failed.status).toBe(500);
      expect(lines(failed, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect(await rowOf('failed-first')).toBeUndefined();
      cues().fails = false;
      const second = await send('/orders', 'failed-first');
      expect(second.status).toBe(201);
      expect(await send('/orders', 'failed-first')).toEqual(replayOf(second));
      expect(await runs('failed-first')).toBe(1);
    });

    it('with another payload is welcome when the first request failed', async () => {
      cues().fails = true;
      expect((await send('/orders', 'corrected', { body: '{"label":"wrong"}' })).status).toBe(500);
      cues().fails = false;
      expect((await send('/orders', 'corrected', { body: '{"label":"right"}' })).status).toBe(201);
      expect([await runs('wrong'), await runs('right')]).toEqual([0, 1]);
    });
  });
});
