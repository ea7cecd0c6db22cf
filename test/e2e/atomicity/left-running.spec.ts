import { describe, expect, it } from '@jest/globals';
import { TransactionRolledBackError } from '../../../src/index.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { problemOf, sessions, start, withADatabaseEach } from './lab.js';

withADatabaseEach();

describe.each(ADAPTERS)('on %s', (adapter) => {
  describe('what a handler leaves running', () => {
    it('is written on its own once the request has committed', async () => {
      const test = await start(adapter);
      expect((await test.post('/leave-running', 'k')).status).toBe(201);
      expect(await test.effects()).toEqual(['order']);
      void test.script.stopAt(0);
      expect(await test.script.late).toMatchObject(Array.from({ length: 5 }, () => ({ status: 'fulfilled' })));
      expect(await test.effects()).toHaveLength(6);
    });

    it('is refused once it was rolled back', async () => {
      const test = await start(adapter);
      test.script.fails = true;
      expect((await test.post('/leave-running', 'k')).status).toBe(409);
      void test.script.stopAt(0);
      const outcomes = (await test.script.late) as PromiseRejectedResult[];
      expect(outcomes).toHaveLength(5);
      for (const { reason } of outcomes) expect(reason).toBeInstanceOf(TransactionRolledBackError);
      expect(await test.effects()).toEqual([]);
    });
  });

  describe('a handler that waits for itself', () => {
    it.each([
      'never ended',
      'ended in the order of their begin',
      'begun by a helper, and unused',
      'awaited from within',
    ])('ends with the time limit: transactions that are %s', async (how) => {
      const test = await start(adapter, { poolSize: 2 });
      const path = `/hang?how=${encodeURIComponent(how)}`;
      test.script.fails = true;
      const response = await test.post(path, 'k');
      expect(response.status).toBe(503);
      expect(problemOf(response).type).toBe('urn:nestjs-idempotency:timed-out');
      expect(await test.effects()).toEqual([]);

      test.script.fails = false;
      await waitFor(async () => (await test.post(path, 'k')).status === 201, { what: 'the key to be free' });
      expect(await test.effects()).toEqual([how]);
      await waitFor(async () => (await sessions()).every(({ state }) => state === 'idle'), {
        what: 'the sessions to end',
      });
    });
  });
});
