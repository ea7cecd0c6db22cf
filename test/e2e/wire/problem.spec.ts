import { describe, expect, it } from '@jest/globals';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { collectLogs } from './collect-logs.js';
import { SECRET } from './house.js';
import { onTheWire } from './on-the-wire.js';
import { problem, problemIn, PROBLEMS } from './problems.js';

describe.each(ADAPTERS)('on the wire, with %s', (adapter) => {
  const { application, cues, start, send, sendAndHold, runs } = onTheWire(adapter);

  it('answers 503 with Retry-After and runs nothing while the store is unavailable', async () => {
    const stored = await send('/orders', 'stored-before');
    await application().dataSource.query('alter table idempotency_keys rename to not_here');
    try {
      expect(problemIn(await send('/orders', 'unavailable'))).toEqual(problem(PROBLEMS.unavailable));
      expect(problemIn(await send('/orders', 'stored-before'))).toEqual(problem(PROBLEMS.unavailable));
    } finally {
      await application().dataSource.query('alter table not_here rename to idempotency_keys');
    }
    expect(await runs('unavailable')).toBe(0);
    expect((await send('/orders', 'unavailable')).status).toBe(201);
    expect(await send('/orders', 'stored-before')).toEqual(replayOf(stored));
  });

  describe('a problem', () => {
    it('has the type that the module was given', async () => {
      const problemBaseUrl = 'https://api.example.com/problems/';
      const other = await start({ idempotency: { problemBaseUrl } });
      expect(problemIn(await send('/orders', undefined, {}, other))).toEqual(problem(PROBLEMS.missing, problemBaseUrl));
      expect(problemIn(await send('/orders', '"', {}, other))).toEqual(problem(PROBLEMS.malformed, problemBaseUrl));
      expect(problemIn(await send('/endless', 'k', {}, other))).toEqual(problem(PROBLEMS.timedOut, problemBaseUrl));
      expect(problemIn(await send('/swallowing', 'k', {}, other))).toEqual(problem(PROBLEMS.failed, problemBaseUrl));
      expect((await send('/orders', 'k', {}, other)).status).toBe(201);
      expect(problemIn(await send('/orders?x', 'k', {}, other))).toEqual(problem(PROBLEMS.reused, problemBaseUrl));
    });

    it("can be restyled by the application's own filter", async () => {
      const response = await send('/styled', undefined);
      expect(response.status).toBe(418);
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/vnd\.house\+json/)]);
      expect(lines(response, 'Link')).toEqual([]);
      expect(json(response)).toEqual({ code: 'urn:nestjs-idempotency:key-missing' });

      const first = await send('/styled', 'styled');
      expect(first.status).toBe(201);
      expect((await send('/styled?x', 'styled')).status).toBe(418);
      expect(await send('/styled', 'styled')).toEqual(replayOf(first));
    });

    it('has its media type whatever body a filter gives it, and no line of the log', async () => {
      await send('/caught', 'caught');
      const logged = collectLogs();
      const responses = [
        await send('/caught', undefined),
        await send('/caught?x', 'caught'),
        await send('/orders', undefined),
      ];
      expect(responses.map((response) => lines(response, 'Content-Type'))).toEqual(
        responses.map(() => ['application/problem+json; charset=utf-8']),
      );
      expect(responses.map(({ status }) => status)).toEqual([400, 422, 400]);
      expect(json(responses[1]!)).toEqual({ statusCode: 422, message: expect.stringContaining('used before') });
      expect(logged).toEqual([]);
    });

    it('never tells the key, and neither does a line of the log', async () => {
      const logged = collectLogs();
      const held = await sendAndHold(SECRET);
      const responses = [
        await send('/orders', SECRET),
        await send('/orders', `"${SECRET}`),
        await send('/orders', `${SECRET}\u00e9`),
        await send('/orders', SECRET.repeat(20)),
        await send('/patterned', SECRET),
        await send('/endless', `${SECRET}-endless`, { body: '{}' }),
        await send('/swallowing', `${SECRET}-swallowing`, { body: '{"label":"s"}' }),
      ];
      held.goOn();
      const first = await held.response;
      cues().fails = true;
      responses.push(
        await send('/orders?other', SECRET),
        await send('/orders', `${SECRET}-failing`, { body: '{"label":"f"}' }),
      );
      cues().fails = false;
      await send('/big-json', `${SECRET}-big`);
      responses.push(await send('/big-json', `${SECRET}-big`));
      await application().dataSource.query('alter table idempotency_keys rename to not_here');
      responses.push(await send('/orders', SECRET));
      await application().dataSource.query('alter table not_here rename to idempotency_keys');
      expect(await send('/orders', SECRET)).toEqual(replayOf(first));

      expect(responses.map(({ status }) => status)).toEqual([409, 400, 400, 400, 400, 503, 500, 422, 500, 409, 503]);
      for (const { body } of responses) {
        expect(body.toString()).not.toContain(SECRET);
      }
      expect(logged.join()).toContain('kaput: f'); // the log was listened to
      expect(logged.join()).toContain('idempotency_keys');
      expect(logged.filter((line) => line.includes(SECRET))).toEqual([]);
    });
  });
});
