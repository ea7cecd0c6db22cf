import { inspect } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { json, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { Contexts } from './context.controller.js';
import { outcomesOn } from './outcomes-on.js';
import { notes, stage } from './stage.js';

describe.each(ADAPTERS)('what becomes of a request, on %s', (adapter) => {
  const { application, send, effects, expectRolledBack } = outcomesOn(adapter, [Contexts]);

  describe('afterCommit', () => {
    it('runs once the key is recorded, whatever another callback does, and not for a replay', async () => {
      const logged: string[] = [];
      Logger.overrideLogger({
        log: () => undefined,
        warn: () => undefined,
        error: (...parts: unknown[]) => void logged.push(inspect(parts)),
      });
      stage.broken = false;
      const response = await send('after-commit');
      expect(response.status).toBe(201);
      await waitFor(() => notes.get('after-commit')?.length === 2, { what: 'the callbacks' });
      expect(await send('after-commit')).toEqual(replayOf(response));
      expect(notes.get('after-commit')).toEqual(['ran', 'committed: 1']);
      expect(logged).toEqual([expect.stringContaining('a callback threw')]);
    });

    it('does not run after a rollback', async () => {
      const label = 'after-commit, failing';
      expect((await send('after-commit', {}, label)).status).toBe(500);
      stage.broken = false;
      expect((await send('after-commit', {}, label)).status).toBe(201);
      await waitFor(() => notes.get(label)?.includes('committed: 1'), { what: 'the callback of the second run' });
      expect(notes.get(label)).toEqual(['ran', 'ran', 'committed: 1']);
    });
  });

  describe('IdempotencyContext', () => {
    it('tells key, scope and attempt, and its manager works in the transaction', async () => {
      expect((await send('context', {}, '"a \\\\ key"')).status).toBe(500);
      expect(await effects('"a \\\\ key"')).toBe(0);
      stage.broken = false;
      const response = await send('context', {}, '"a \\\\ key"');
      expect(json(response)).toEqual({ key: 'a \\ key', scope: 'a scope', attempt: 1 });
      expect(await effects('"a \\\\ key"')).toBe(1);
    });

    it('has no key where the request has none', async () => {
      stage.broken = false;
      const response = await application().request({
        method: 'POST',
        path: '/context',
        headers: [['Content-Type', 'application/json']],
        body: '{"label":"no key"}',
      });
      expect(json(response)).toEqual({ key: null, scope: 'a scope', attempt: 1 });
      expect(await effects('no key')).toBe(1);
    });
  });

  it('keeps what is written outside the transaction when it is rolled back', async () => {
    expect((await send('outside')).status).toBe(500);
    expect([await effects('outside'), await effects('outside: audit')]).toEqual([0, 1]);
    await expectRolledBack('outside');
    expect(await effects('outside: audit')).toBe(2);
  });
});
