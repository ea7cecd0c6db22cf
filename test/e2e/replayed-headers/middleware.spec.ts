import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from '@jest/globals';
import type { RawResponse } from '../../support/raw-http.js';
import { json, lines } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { headersOn, REPLAYED } from './headers-on.js';

describe.each(ADAPTERS)('the headers of a replay, on %s', (adapter) => {
  const { send, storedNames } = headersOn(adapter);

  describe('on the way through middleware that changes the response', () => {
    const bodyOf = (response: RawResponse) =>
      lines(response, 'Content-Encoding')[0] === 'gzip'
        ? gunzipSync(response.body).toString()
        : response.body.toString();

    it.each([
      ['gzip', undefined],
      [undefined, 'gzip'],
      ['gzip', 'gzip'],
    ])('are complete, for a first client that accepts %s and one that retries with %s', async (one, other) => {
      const key = `compressed for ${one}, then ${other}`;
      const accepting = (coding: string | undefined): [string, string][] => [
        ['X-Compress', 'yes'],
        ...(coding === undefined ? [] : [['Accept-Encoding', coding] as [string, string]]),
      ];
      const first = await send('plain', accepting(one), key);
      const replay = await send('plain', accepting(other), key);
      expect(replay).toEqual(REPLAYED);
      expect(lines(first, 'Content-Encoding')).toEqual(one === undefined ? [] : [one]);
      expect(lines(replay, 'Content-Encoding')).toEqual(other === undefined ? [] : [other]);
      for (const response of [first, replay]) {
        expect(bodyOf(response)).toBe('{"plain":true}');
        expect(lines(response, 'X-Seen-Status')).toEqual(['201']);
        expect(lines(response, 'Content-Type')).toEqual(['application/json; charset=utf-8']);
      }
      const names = await storedNames(key);
      expect(names).not.toContain('content-encoding');
      expect(names).not.toContain('x-seen-status');
    });

    it('are complete on a problem as well', async () => {
      await send('plain', [['X-Compress', 'yes']], 'compressed problem');
      const problem = await send(
        'plain?x',
        [
          ['X-Compress', 'yes'],
          ['Accept-Encoding', 'gzip'],
        ],
        'compressed problem',
      );
      expect(problem.status).toBe(422);
      expect(JSON.parse(bodyOf(problem))).toMatchObject({ type: 'urn:nestjs-idempotency:key-reused' });
      expect(lines(problem, 'X-Seen-Status')).toEqual(['422']);
    });

    it('come also when it ends the response later than it was told to', async () => {
      const saved: [string, string][] = [['X-Saving', 'yes']];
      const first = await send('plain', saved, 'saved');
      expect(json(first)).toEqual({ plain: true });
      const replay = await send('plain', saved, 'saved');
      expect(replay).toEqual(REPLAYED);
      expect(replay.body.equals(first.body)).toBe(true);
      expect(lines(replay, 'Content-Length')).toEqual(lines(first, 'Content-Length'));
      expect((await send('plain?x', saved, 'saved')).status).toBe(422);

      const undone = await send('undone', saved, 'saved and undone');
      expect(undone.status).toBe(500);
      expect(json(undone)).toMatchObject({ type: 'urn:nestjs-idempotency:transaction-failed' });
    });
  });
});
