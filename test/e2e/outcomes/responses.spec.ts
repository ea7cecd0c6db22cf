import { describe, expect, it } from '@jest/globals';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { outcomesOn } from './outcomes-on.js';
import { Responses } from './responses.controller.js';
import { notes } from './stage.js';

describe.each(ADAPTERS)('what becomes of a request, on %s', (adapter) => {
  const { send, effects, expectRolledBack, onceFree } = outcomesOn(adapter, [Responses]);

  describe('@Res()', () => {
    it('that answers and then throws does not send its success', async () => {
      const failed = await send('res-then-throws');
      expect(failed.status).toBe(500);
      expect(json(failed)).toMatchObject({ type: 'urn:nestjs-idempotency:transaction-failed' });
      await expectRolledBack('res-then-throws');
    });

    it.each(['never-answers', 'outer-never-completes'])(
      'or whoever else never ends the response gets 503 in the end, and the key is free (%s)',
      async (path) => {
        const failed = await send(path);
        expect(failed.status).toBe(503);
        expect(json(failed)).toMatchObject({
          type: 'urn:nestjs-idempotency:timed-out',
          detail: 'The operation was rolled back after 200 ms. Retry with the same key.',
        });
        expect(lines(failed, 'Retry-After')).toEqual(['2']);
        await expectRolledBack(
          path,
          onceFree(() => send(path)),
        );
      },
    );

    it('may end twice, and write behind the end: the first end counts', async () => {
      const response = await send('ends-twice');
      expect(response.body.toString()).toBe('once');
      expect(await send('ends-twice')).toEqual(replayOf(response));
      expect(await effects('ends-twice')).toBe(1);
      await waitFor(() => notes.get('ends-twice')?.includes('called back'), { what: 'the callback of the late write' });
    });

    it('may write piece by piece, wait for each, and call back', async () => {
      const response = await send('writes-with-callbacks');
      expect(response.statusLine).toBe('HTTP/1.1 202 Taken');
      expect(response.body.toString()).toBe('abcd');
      expect(lines(response, 'X-List')).toEqual(['one']);
      await waitFor(() => notes.get('writes-with-callbacks')?.includes('ended'), { what: 'the callback of end()' });
      const replay = await send('writes-with-callbacks');
      expect(replay).toMatchObject({ status: 202, body: response.body });
      expect(lines(replay, 'X-List')).toEqual(['one']);
      expect(await effects('writes-with-callbacks')).toBe(1);
    });
  });

  it('keeps headers of any size and spelling', async () => {
    const response = await send('huge-head');
    expect(lines(response, 'X-Huge')).toEqual(['h'.repeat(50_000)]);
    // As on a plain route: Fastify ends a response by a text, whose encoding Node then gives to the head, too.
    expect(lines(response, 'X-Odd-Case')).toEqual([adapter === 'express' ? 'caf\u00e9' : 'caf\u00c3\u00a9']);
    const replay = await send('huge-head');
    expect(replay).toEqual(replayOf(response));
    const own = (line: string) => /^x-(?:huge|odd)/i.test(line);
    expect(replay.headerLines.filter(own)).toEqual(response.headerLines.filter(own));
  });
});
