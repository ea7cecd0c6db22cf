import { describe, expect, it } from '@jest/globals';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { outcomesOn } from './outcomes-on.js';
import { OuterRetries } from './outer-retries.controller.js';
import { SlowFailing } from './slow-failing.controller.js';
import { gates, notes, stage } from './stage.js';

describe.each(ADAPTERS)('what becomes of a request, on %s', (adapter) => {
  const { application, send, effects } = outcomesOn(adapter, [OuterRetries, SlowFailing]);

  describe('an outer interceptor', () => {
    it('that tries again has each run roll back but the last, which is recorded as if it were the only one', async () => {
      const response = await send('outer-retries');
      expect(response.status).toBe(201);
      expect(json(response)).toEqual({ run: 3 });
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect([lines(response, 'Link'), lines(response, 'Retry-After')]).toEqual([[], []]); // of the second run's error
      const replay = await send('outer-retries');
      expect(replay).toEqual(replayOf(response));
      expect(lines(replay, 'Content-Type')).toEqual(lines(response, 'Content-Type'));
      expect(await effects('outer-retries')).toBe(1);
      expect(notes.get('outer-retries')).toEqual(['ran', 'ran', 'ran']);
    });

    it('that tries again gives the next run its own time limit, and nothing of the one that failed', async () => {
      const response = await send('outer-retries-slowly');
      expect([response.statusLine, json(response)]).toEqual(['HTTP/1.1 201 Created', { run: 2 }]);
      const replay = await send('outer-retries-slowly');
      expect(replay).toEqual(replayOf(response));
      for (const answer of [response, replay]) {
        expect(['X-Order', 'X-Failed', 'Cache-Control'].map((name) => lines(answer, name))).toEqual([
          ['one'],
          [],
          ['no-store'],
        ]);
      }
      expect(await effects('outer-retries-slowly')).toBe(1);
      expect(notes.get('outer-retries-slowly')).toEqual(['ran', 'ran']);
    });

    it('that gives a run up and tries again has only the second one answer', async () => {
      const label = 'outer-gives-up-and-retries';
      const trying = send(label);
      await gates.entered(`run 1 of ${label}`);
      gates.open(`time limit of ${label}`);
      await gates.entered(`run 2 of ${label}`);
      gates.open(`run 1 of ${label}`);
      await waitFor(() => notes.get(label)!.includes('run 1 answered'), {
        what: 'the answer of the run that was given up',
      });
      gates.open(`run 2 of ${label}`);
      const response = await trying;
      expect([response.status, json(response)]).toEqual([201, { run: 2 }]);
      expect(await send(label)).toEqual(replayOf(response));
      expect(await effects(label)).toBe(1);
    });

    it('that tries again after the connection was lost gets an answer of its own, though the route stores errors', async () => {
      const label = 'outer-retries-lost-connection';
      const trying = send(label);
      await gates.entered(label);
      const locks = `select 1 from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`;
      await waitFor(async () => ((await application().dataSource.query(locks)) as unknown[]).length === 0, {
        what: 'a free key',
      });
      gates.open(label);
      const response = await trying;
      expect([response.status, json(response)]).toEqual([201, { label }]);
      expect(lines(response, 'Idempotency-Replayed')).toEqual([]);
      const replay = await send(label);
      expect(replay).toEqual(replayOf(response));
      expect([lines(response, 'X-Order'), lines(replay, 'X-Order')]).toEqual([['one'], ['one']]);
      expect(await effects(label)).toBe(1);
    });

    it('that tries again when another request has completed the key gives its response', async () => {
      const label = 'outer-retries-later';
      const trying = send(label);
      await gates.entered(label);
      stage.broken = false;
      const other = await send(label);
      expect(other.status).toBe(201);
      gates.open(label);
      expect(await trying).toEqual(replayOf(other));
      expect(await effects(label)).toBe(1);
      expect(notes.get(label)).toEqual(['ran', 'ran']);
    });

    it('that tries again after a problem has nothing of it in the answer, not even in one with the same status', async () => {
      const failing = send('slow-failing', {}, 'tried later');
      await gates.entered('tried later');
      const trying = application().post('/outer-tries-later', 'tried later', { label: 'tries later' });
      await gates.entered('tries later'); // after 409: the key is in flight
      gates.open('tried later');
      expect((await failing).status).toBe(500);
      gates.open('tries later');
      const response = await trying;
      expect([response.status, json(response)]).toEqual([409, { label: 'tries later' }]);
      expect(lines(response, 'Content-Type')).toEqual([expect.stringMatching(/^application\/json/)]);
      expect([lines(response, 'Link'), lines(response, 'Retry-After')]).toEqual([[], []]);
      const replay = await application().post('/outer-tries-later', 'tried later', { label: 'tries later' });
      expect(replay).toEqual(replayOf(response));
      expect(notes.get('tries later')).toEqual(['ran']);
    });
  });
});
