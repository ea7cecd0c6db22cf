import { describe, expect, it } from '@jest/globals';
import { lines } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { FORBIDDEN } from './handlers.controller.js';
import { headersOn, REPLAYED } from './headers-on.js';
import { requests } from './middleware.js';

describe.each(ADAPTERS)('the headers of a replay, on %s', (adapter) => {
  const { application, send, storedHeaders, storedNames, ownOf, ownOfRequest } = headersOn(adapter);

  describe('that outer middleware had set', () => {
    it("are this request's own, request id, rate limit, cookie and CORS alike", async () => {
      const first = await send('plain', [['Origin', 'https://one.example']]);
      expect(ownOf(first)).toEqual(ownOfRequest(requests, 'https://one.example'));
      const replay = await send('plain', [['Origin', 'https://two.example']]);
      expect(replay).toEqual(REPLAYED);
      expect(ownOf(replay)).toEqual(ownOfRequest(requests, 'https://two.example'));
      expect(lines(replay, 'Access-Control-Expose-Headers')).toEqual(['Idempotency-Replayed']);
      expect(lines(replay, 'Vary')).toEqual(lines(first, 'Vary'));
      expect(await storedNames('plain')).toEqual(
        adapter === 'express' ? ['content-length', 'content-type', 'etag'] : ['content-length', 'content-type'],
      );
    });

    it("are this request's own also on a problem", async () => {
      await send('plain', [], 'problem');
      const problem = await send('plain?other', [['Origin', 'https://three.example']], 'problem');
      expect(problem.status).toBe(422);
      expect(ownOf(problem)).toEqual(ownOfRequest(requests, 'https://three.example'));
      expect(lines(problem, 'Content-Type')).toEqual(['application/problem+json; charset=utf-8']);
    });

    it('are replayed where the handler has changed, extended or removed them', async () => {
      const first = await send('changing');
      const replay = await send('changing');
      expect(replay).toEqual(REPLAYED);
      for (const response of [first, replay]) {
        expect(lines(response, 'X-Changed')).toEqual(['by the handler']);
        expect(lines(response, 'X-Removed')).toEqual([]);
        expect(lines(response, 'X-Added')).toEqual(['by the handler']);
        expect(lines(response, 'X-Extended')).toEqual(['by middleware', 'by the handler']);
      }
      expect(lines(replay, 'X-Request-Id')).toEqual([`request-${requests}`]);
      expect(await storedHeaders('changing')).toContainEqual(['x-removed', null]);
    });

    it('are as they were when the response of the handler is thrown away, and its own are gone', async () => {
      const failed = await send('undone', [['Origin', 'https://four.example']]);
      expect(failed.status).toBe(500);
      expect(ownOf(failed)).toEqual(ownOfRequest(requests, 'https://four.example'));
      expect(lines(failed, 'Location')).toEqual([]);
      expect(lines(failed, 'ETag')).toEqual([]);
      expect(lines(failed, 'Content-Type')).toEqual(['application/problem+json; charset=utf-8']);
    });
  });

  it('never hold what belongs to one message or one caller, and neither does the row', async () => {
    const first = await send('forbidden');
    for (const [name, value] of Object.entries(FORBIDDEN)) {
      expect(lines(first, name)).toContain(value);
    }
    const replay = await send('forbidden');
    expect(replay).toEqual(REPLAYED);
    expect(lines(replay, 'X-Allowed')).toEqual(['yes']);
    expect(lines(replay, 'Set-Cookie')).toEqual([`session=${requests}`]);
    expect(new Date(lines(replay, 'Date')[0]!).getFullYear()).toBeGreaterThan(2000);
    const { connection: _, ...forbidden } = FORBIDDEN; // the client of the test asks for it
    for (const [name, value] of Object.entries(forbidden)) {
      expect(lines(replay, name)).not.toContain(value);
    }
    const names = await storedNames('forbidden');
    expect(names).toContain('x-allowed');
    expect(names.filter((name) => name in FORBIDDEN)).toEqual([]);
    const row = await application().dataSource.query(
      `select k::text as text from idempotency_keys k where key = 'forbidden'`,
    );
    expect(JSON.stringify(row)).not.toMatch(/of-the-first|session=/);
  });

  it('repeat the lines that the first response had, in their order', async () => {
    const first = await send('repeated');
    const replay = await send('repeated');
    expect(replay).toEqual(REPLAYED);
    for (const response of [first, replay]) {
      expect(lines(response, 'Link')).toEqual(['</1>; rel="first"', '</2>; rel="next"']);
      expect(lines(response, 'X-Lines')).toEqual(['b', 'a', 'b']);
    }
  });

  it('are more or fewer where the route says so', async () => {
    const first = await send('chosen');
    expect(lines(first, 'X-Secret')).toEqual(['of the first']);
    const replay = await send('chosen');
    expect(replay).toEqual(REPLAYED);
    expect(lines(replay, 'Set-Cookie')).toEqual(lines(first, 'Set-Cookie'));
    expect(lines(replay, 'X-Request-Id')).toEqual(lines(first, 'X-Request-Id'));
    expect(lines(replay, 'X-Open')).toEqual(['of the first']);
    expect(lines(replay, 'X-Secret')).toEqual([]);
    expect(lines(replay, 'ETag')).toEqual([]);
    expect(lines(replay, 'X-RateLimit-Remaining')).toEqual([String(1000 - requests)]);
    expect((await storedNames('chosen')).filter((name) => ['x-secret', 'etag'].includes(name))).toEqual([]);
  });
});
