import { describe, expect, it } from '@jest/globals';
import { type RawResponse, withoutVolatile } from '../../support/raw-http.js';
import { lines } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { ENCODED, TEXT } from './handlers.controller.js';
import { headersOn, REPLAYED } from './headers-on.js';

describe.each(ADAPTERS)('the headers of a replay, on %s', (adapter) => {
  const { send } = headersOn(adapter);

  describe('with an encoded body', () => {
    it.each([
      ['gzip', undefined],
      ['gzip', 'gzip'],
      ['gzip', 'br;q=1.0, GZip;q=0.5'],
      ['gzip', '*'],
      ['br', 'gzip, br'],
      ['deflate', 'deflate;q=0.001'],
      ['X-GZIP', 'x-gzip'],
      ['rot13', 'gzip'],
      ['rot13', 'identity'],
      ['empty', 'identity'],
    ])('are as stored for %s, which a client takes that accepts %s', async (coding, accepted) => {
      const key = `${coding} for ${accepted}`;
      const first = await send(`encoded/${coding}`, [], key);
      expect(first.body.equals(ENCODED[coding]!)).toBe(true);
      const replay = await send(
        `encoded/${coding}`,
        accepted === undefined ? [] : [['Accept-Encoding', accepted]],
        key,
      );
      expect(replay).toEqual(REPLAYED);
      expect(replay.body.equals(first.body)).toBe(true);
      for (const name of ['Content-Encoding', 'Content-Length', 'Content-Type', 'ETag', 'Vary']) {
        expect([name, lines(replay, name)]).toEqual([name, lines(first, name)]);
      }
      expect(lines(replay, 'Content-Encoding')).toEqual([coding]);
    });

    it.each([
      ['gzip', 'identity'],
      ['gzip', ''],
      ['gzip', 'br, deflate'],
      ['gzip', 'gzip;q=0'],
      ['gzip', '*;q=0'],
      ['gzip', 'gzip; q=0.000, *'],
      ['br', 'gzip'],
      ['deflate', 'gzip, br'],
      ['X-GZIP', 'identity'],
    ])(
      'are those of the decoded body for %s, which a client does not take that accepts %j',
      async (coding, accepted) => {
        const key = `${coding} not for ${accepted}`;
        const first = await send(`encoded/${coding}`, [], key);
        const replay = await send(`encoded/${coding}`, [['Accept-Encoding', accepted]], key);
        expect(replay).toEqual(REPLAYED);
        expect(replay.body.toString()).toBe(TEXT);
        expect(lines(replay, 'Content-Encoding')).toEqual([]);
        expect(lines(replay, 'Content-Length')).toEqual([String(TEXT.length)]);
        expect(lines(replay, 'ETag')).toEqual([]);
        expect(lines(replay, 'Content-Type')).toEqual(['text/plain']);
        expect((await send(`encoded/${coding}`, [['Accept-Encoding', coding]], key)).body.equals(first.body)).toBe(
          true,
        );
      },
    );

    it('tell also of an encoding that the route set before the handler ran', async () => {
      const first = await send('encoded-always', [['Accept-Encoding', 'gzip']]);
      expect(lines(first, 'Content-Encoding')).toEqual(['gzip']);
      const replay = await send('encoded-always', [['Accept-Encoding', 'identity']]);
      expect(replay).toEqual(REPLAYED);
      expect(lines(replay, 'Content-Encoding')).toEqual([]);
      expect(replay.body.toString()).toBe(TEXT);
      expect((await send('encoded-always', [['Accept-Encoding', 'gzip']])).body.equals(first.body)).toBe(true);
    });

    it('are as stored where the body is not what they say', async () => {
      const first = await send('not-encoded-after-all');
      const replay = await send('not-encoded-after-all', [['Accept-Encoding', 'identity']]);
      expect(replay).toEqual(REPLAYED);
      expect(replay.body.toString()).toBe('not gzip');
      expect(lines(replay, 'Content-Encoding')).toEqual(lines(first, 'Content-Encoding'));
    });
  });

  describe('without a body', () => {
    it.each(['204', '304', '205'])('of a %s are the same', async (status) => {
      const first = await send(`empty/${status}`);
      const replay = await send(`empty/${status}`);
      expect(replay).toEqual(REPLAYED);
      const own = (response: RawResponse) =>
        withoutVolatile(response.headerLines).filter((line) => /^(?:etag|content-|transfer-)/i.test(line));
      expect(own(replay)).toEqual(own(first));
      expect(lines(replay, 'ETag')).toEqual(['"empty"']);
      expect(lines(replay, 'Content-Location')).toEqual(['/here']);
      expect([replay.status, replay.body.length]).toEqual([Number(status), 0]);
    });

    it('of a handler for 204 name neither length nor encoding', async () => {
      await send('no-content');
      const replay = await send('no-content');
      expect(replay).toEqual(REPLAYED);
      expect(replay.status).toBe(204);
      expect(lines(replay, 'ETag')).toEqual(['W/"v2"']);
      expect(replay.headerLines.filter((line) => /^(?:content-length|transfer-encoding)/i.test(line))).toEqual([]);
    });
  });
});
