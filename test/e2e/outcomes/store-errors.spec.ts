import { describe, expect, it } from '@jest/globals';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { outcomesOn } from './outcomes-on.js';
import { notes } from './stage.js';
import { StoredErrors } from './store-errors.controller.js';

describe.each(ADAPTERS)('what becomes of a request, on %s', (adapter) => {
  const { send, effects, isStored, expectRolledBack } = outcomesOn(adapter, [StoredErrors]);

  describe('storeErrors', () => {
    it('stores the accepted error without the writes of the handler, and nothing runs after commit', async () => {
      const failed = await send('store-errors', { status: 402 });
      expect(failed.status).toBe(402);
      expect(json(failed)).toMatchObject({ reason: 'declined' });
      expect(lines(failed, 'Idempotency-Replayed')).toEqual([]);
      expect(await send('store-errors', { status: 402 })).toEqual(replayOf(failed));
      expect([await effects('store-errors'), await isStored('store-errors')]).toEqual([0, true]);
      expect(notes.get('store-errors')).toEqual(['ran']);
    });

    it('does not store a problem that tells of the very request', async () => {
      const [one, two] = [await send('outer-retries-stored-errors'), await send('outer-retries-stored-errors')];
      for (const answer of [one, two]) {
        expect(answer.status).toBe(409);
        expect(json(answer)).toMatchObject({ type: 'urn:nestjs-idempotency:request-in-flight' });
        expect(lines(answer, 'Idempotency-Replayed')).toEqual([]);
      }
      await expectRolledBack('outer-retries-stored-errors');
    });

    it.each([409, 500, 503])('does not store an error of %d, whatever it says of that', async (status) => {
      const label = `store-errors-${status}`;
      const [one, two] = [await send('store-errors', { status }, label), await send('store-errors', { status }, label)];
      expect([one.status, two.status]).toEqual([status, status]);
      expect(json(one)['at']).not.toBe(json(two)['at']);
      expect([await effects(label), await isStored(label)]).toEqual([0, false]);
      expect(notes.get(label)).toEqual(['ran', 'ran']);
    });
  });
});
