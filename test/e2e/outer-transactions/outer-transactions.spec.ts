import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { json, replayOf } from '../../support/response.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { CallbackInterceptor, OuterController, SqlInterceptor, TransactionInterceptor } from './outer.controller.js';

const POOL_SIZE = 4;

describe.each(ADAPTERS)('an interceptor with a transaction of its own, on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({
      adapter,
      controllers: [OuterController],
      providers: [TransactionInterceptor, CallbackInterceptor, SqlInterceptor],
      poolSize: POOL_SIZE,
    });
  });

  afterAll(() => test.close());

  beforeEach(async () => {
    await test.dataSource.query('truncate effects, idempotency_keys cascade');
    test.logs.length = 0;
  });

  /** A replay is sent by what runs within the interceptor, whose own COMMIT comes a moment later. */
  const countOpen = async (): Promise<number> => {
    const [{ open }] = (await test.dataSource.query(
      `select count(*)::int as open from pg_stat_activity where datname = current_database() and state like 'idle in%'`,
    )) as [{ open: number }];
    return open;
  };
  /** A replay is sent by what runs within the interceptor, whose own COMMIT comes a moment later. */
  const areNoneLeft = async (): Promise<void> => {
    await waitFor(async () => (await countOpen()) === 0, { what: 'every transaction to have ended' });
  };

  it.each(['around', 'around-by-callback', 'around-a-reader', 'around-by-sql', 'around-a-step'])(
    'whose connection the handler uses fails with what to do: %s',
    async (path) => {
      for (const key of ['one', 'one', 'another']) {
        expect((await test.post(`/${path}`, key)).status).toBe(500);
      }
      expect(await test.effects()).toEqual([]);
      const said = test.logs.filter((line) => line.includes('older than the one of this idempotent request'));
      expect(said).toHaveLength(3);
      expect(said[0]).toContain(`POST /${path}`);
      expect(said[0]).toContain('Put @Idempotent() below the decorator that attaches it');
      await areNoneLeft();
    },
  );

  it.each(['unused', 'unused-by-sql', 'unused-by-a-step', 'within', 'within-by-callback'])(
    'that the handler does not use, or that runs within, changes nothing: %s',
    async (path) => {
      const first = await test.post(`/${path}`, 'one');
      expect([first.status, json(first)]).toEqual([201, { saved: true }]);
      expect(await test.post(`/${path}`, 'one')).toEqual(replayOf(first));
      expect(await test.effects()).toEqual([path]);
      expect(test.logs).toEqual([]);
      await areNoneLeft();
    },
  );

  it.each(['around', 'unused', 'unused-by-sql', 'unused-by-a-step'])(
    'keeps no request waiting for a connection that others like it keep: %s',
    async (path) => {
      const startedAt = performance.now();
      const answers = await Promise.all(
        Array.from({ length: 3 * POOL_SIZE }, async (_, one) => test.post(`/${path}`, `key ${one}`)),
      );
      expect(performance.now() - startedAt).toBeLessThan(4_000); // a claim that waits for others takes 5 s
      expect(answers.map(({ status }) => status).filter((status) => ![201, 500, 503].includes(status))).toEqual([]);
      expect(await test.effects()).toHaveLength(answers.filter(({ status }) => status === 201).length);
      const refused = answers.filter(({ status }) => status === 503);
      expect(test.logs.filter((line) => /keeps (?:a connection of )?its own/.test(line))).toHaveLength(refused.length);
      expect((await test.post(`/${path}`, 'afterwards')).status).toBe(path === 'around' ? 500 : 201);
      await areNoneLeft();
    },
  );
});
