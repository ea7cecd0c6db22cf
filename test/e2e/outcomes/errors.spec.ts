import { describe, expect, it } from '@jest/globals';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { Errors } from './errors.controller.js';
import { outcomesOn } from './outcomes-on.js';
import { gates, notes } from './stage.js';

describe.each(ADAPTERS)('what becomes of a request, on %s', (adapter) => {
  const { send, effects, isStored, expectRolledBack, onceFree } = outcomesOn(adapter, [Errors]);

  describe('an error', () => {
    it('rolls all writes back and is not stored: the retry runs again', async () => {
      const failed = await send('thrown');
      expect(failed.status).toBe(500);
      expect(lines(failed, 'Idempotency-Key')).toEqual(['thrown']);
      await expectRolledBack('thrown');
    });

    it('of validation leaves the key usable, also for a corrected body', async () => {
      const invalid = await send('validated', { amount: 'much' });
      expect(invalid.status).toBe(400);
      expect(json(invalid)['message']).toEqual(['amount must be an integer number']);
      expect([await effects('validated'), await isStored('validated')]).toEqual([0, false]);
      const valid = await send('validated', { amount: 7 });
      expect(valid.status).toBe(201);
      expect(await send('validated', { amount: 7 })).toEqual(replayOf(valid));
      expect(await effects('validated')).toBe(1);
    });

    it.each([
      ['thrown by the handler', 'thrown-503', 503],
      ['set by the handler as a status', 'passthrough-500', 500],
      ['sent by the handler', 'res-500', 500],
      ['made of another one by a filter, though the route stores errors', 'filter-502', 502],
      ['thrown by an outer interceptor', 'outer-500', 500],
      ['set by an outer interceptor as a status', 'outer-status-503', 503],
      ['of a value that cannot be sent', 'unserialisable', 500],
      ['of 4xx thrown by an outer interceptor, in map', 'outer-map', 409],
    ])('is rolled back when it was %s', async (_, path, status) => {
      expect((await send(path)).status).toBe(status);
      await expectRolledBack(path);
      expect(notes.get(path)).toEqual(['ran', 'ran']);
    });

    it('of an outer interceptor is rolled back also when it comes later', async () => {
      const response = send('outer-merge-map');
      await gates.entered('outer-merge-map');
      expect(await effects('outer-merge-map')).toBe(0);
      gates.open('outer-merge-map');
      expect((await response).status).toBe(409);
      await expectRolledBack('outer-merge-map');
    });

    it.each([
      ['a time limit of an outer interceptor', 'outer-timeout', 408],
      ["the route's own time limit", 'too-long', 503],
    ])('of %s leaves nothing, and what the handler writes later fails loudly', async (_, path, status) => {
      const response = send(path);
      await gates.entered(path);
      gates.open(`time limit of ${path}`);
      expect((await response).status).toBe(status);
      expect(await effects(path)).toBe(0);

      gates.open(path);
      await waitFor(() => notes.get(path)?.includes('done'), { what: 'the late writes' });
      expect(notes.get(path)).toEqual([
        'ran',
        'ran', // the service, which is told when it saves
        'repository: refused',
        'query: refused',
        'transaction: refused',
        'done',
      ]);
      await expectRolledBack(
        path,
        onceFree(() => send(path)),
      );
    });
  });
});
