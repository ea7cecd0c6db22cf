import { describe, expect, it } from '@jest/globals';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { outcomesOn } from './outcomes-on.js';
import { OuterInterceptors } from './outer-interceptors.controller.js';
import { SlowFailing } from './slow-failing.controller.js';
import { gates, notes, stage } from './stage.js';

describe.each(ADAPTERS)('what becomes of a request, on %s', (adapter) => {
  const { application, send, effects, isStored, expectRolledBack, onceFree } = outcomesOn(adapter, [
    OuterInterceptors,
    SlowFailing,
  ]);

  describe('an outer interceptor', () => {
    it.each(['outer-repeats', 'outer-subscribes-twice'])(
      'that wants a second run beside the first gets none: %s',
      async (path) => {
        const response = await send(path);
        expect(response.status).toBe(409);
        expect((notes.get(path) ?? []).length).toBeLessThan(2);
        await expectRolledBack(
          path,
          onceFree(() => send(path)),
        );
      },
    );

    it.each(['outer-first', 'outer-take', 'in-time'])('may turn away once it has the value: %s', async (path) => {
      const response = await send(path);
      expect(json(response)).toEqual({ label: path });
      expect(await send(path)).toEqual(replayOf(response));
      expect(await effects(path)).toBe(1);
    });

    it('that answers without the handler leaves no trace, and the key is free', async () => {
      expect(json(await send('outer-cached'))).toEqual({ cached: true });
      await expectRolledBack('outer-cached');
    });

    it('that puts a value in the place of an error has that sent, not stored', async () => {
      const response = await send('outer-catches');
      expect(response.status).toBe(201);
      expect(json(response)).toEqual({ instead: 'rolled back' });
      await expectRolledBack('outer-catches');
    });

    it('that puts a value in the place of a problem has it sent without the headers of the problem', async () => {
      stage.broken = false;
      await send('outer-catches', {}, 'caught');
      const response = await send('outer-catches', { other: true }, 'caught');
      expect(response.status).toBe(201);
      expect(json(response)).toMatchObject({ instead: expect.stringContaining('used before with another') });
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect(lines(response, 'Link')).toEqual([]);
    });

    it('that puts another error in the place of a problem has it sent without the headers of the problem', async () => {
      await send('outer-translates');
      const response = await send('outer-translates', { other: true });
      expect(response.status).toBe(418);
      expect(json(response)).toEqual({ translated: true });
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect(lines(response, 'Link')).toEqual([]);
    });

    it('that has answered by itself keeps the handler from running: nothing could be held back', async () => {
      expect((await send('outer-answers')).status).toBe(202);
      expect(notes.get('outer-answers')).toBeUndefined();
      expect(await isStored('outer-answers')).toBe(false);
    });

    it('that gives up on a request which waits for another one leaves the key free when that one fails', async () => {
      const failing = send('slow-failing');
      await gates.entered('slow-failing');
      const waiting = application().post('/waiting', 'slow-failing', { label: 'gives up' });
      gates.open('time limit of gives up');
      expect((await waiting).status).toBe(408);
      gates.open('slow-failing');
      expect((await failing).status).toBe(500);
      await expectRolledBack(
        'slow-failing',
        onceFree(() => send('slow-failing')),
      );
      expect(notes.get('gives up')).toBeUndefined();
    });

    it('finds the handler in the asynchronous context that it has called it in', async () => {
      const response = await send('in-context');
      expect(json(response)).toEqual({ before: 'the outer interceptor', after: 'the outer interceptor' });
    });
  });
});
