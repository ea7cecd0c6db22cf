import { describe, expect, it } from '@jest/globals';
import { json } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { NESTJS_MAJOR } from '../../support/versions.js';
import { outcomesOn } from './outcomes-on.js';
import { notes } from './stage.js';
import { REFUSED_AT_COMMIT, Transactions } from './transaction.controller.js';

describe.each(ADAPTERS)('what becomes of a request, on %s', (adapter) => {
  const { application, send, effects, isStored, expectRolledBack } = outcomesOn(
    adapter,
    [Transactions],
    REFUSED_AT_COMMIT,
  );

  describe('the transaction', () => {
    it('that violates a deferred constraint at COMMIT is an error, and nothing of it is kept', async () => {
      const failed = await send('deferred-constraint');
      expect(failed.status).toBe(500);
      expect(json(failed)).toMatchObject({
        type: 'urn:nestjs-idempotency:transaction-failed',
        detail: expect.stringContaining('A deferred constraint or trigger refused'),
      });
      expect(await application().dataSource.query('select * from children')).toEqual([]);
      await expectRolledBack('deferred-constraint');
      expect(notes.get('deferred-constraint')).toEqual(['ran', 'ran', 'committed']);
      expect(await application().dataSource.query('select * from children')).toEqual([{ parent: 1 }]);
    });

    it('with an error that the handler swallowed is an error, and nothing of it is kept', async () => {
      const failed = await send('swallowed');
      expect(failed.status).toBe(500);
      expect(json(failed)).toMatchObject({
        type: 'urn:nestjs-idempotency:transaction-failed',
        detail: expect.stringContaining('A statement of the handler failed and the handler went on'),
      });
      expect(notes.get('swallowed')).toEqual(['ran', 'swallowed']);
      await expectRolledBack('swallowed');
    });

    it('survives an error that the handler swallowed in a transaction of its own', async () => {
      const response = await send('swallowed-in-savepoint');
      expect(response.status).toBe(201);
      expect(notes.get('swallowed-in-savepoint')).toEqual(['ran', 'swallowed']);
      expect(await effects('swallowed-in-savepoint')).toBe(1);
    });

    it.each([
      'commit',
      'COMMIT;',
      ' end ',
      'rollback',
      'Rollback work',
      'abort',
      'begin',
      'start transaction',
      "prepare transaction 'x'",
      '-- done\ncommit',
      '/* done */ commit',
    ])('cannot be ended by the handler: %j is refused', async (sql) => {
      const label = `transaction control: ${sql.replaceAll('\n', ' ')}`;
      const failed = await send('transaction-control', { sql }, label);
      expect(failed.status).toBe(500);
      expect(notes.get(label)).toEqual(['ran', expect.stringContaining('would end the transaction')]);
      expect([await effects(label), await isStored(label)]).toEqual([0, false]);
    });

    it('may have savepoints of the handler', async () => {
      const label = 'own savepoints';
      const sql = 'savepoint a; select 1; rollback to savepoint a; release savepoint a';
      expect((await send('transaction-control', { sql }, label)).status).toBe(201);
      expect([await effects(label), await isStored(label)]).toEqual([1, true]);
    });
  });

  // Express 4 leaves such a request without an answer, with the library or without.
  if (adapter !== 'express' || NESTJS_MAJOR > 10) {
    it('goes to the framework where an exception filter fails, also when the route is run again', async () => {
      const path = 'broken-when-run-again';
      expect((await send(path)).status).toBe(500);
      expect(notes.get(path)).toEqual(['ran', 'ran']);
      await expectRolledBack(path);
    });
  }
});
