import { HttpException } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { DurableStepError, type IdempotencyContext } from '../../../src/index.js';
import { dataSourceOf } from '../../../src/postgres/data-source-of.js';
import { Effect } from '../../support/effect.entity.js';
import type { RawResponse } from '../../support/raw-http.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { createLeaseApp, jsonOf, type LeaseApp } from './lease-fixture.js';

const optional = { required: false } as const;

describe.each(ADAPTERS)('a request without a key where none is required, on %s', (adapter) => {
  let test: LeaseApp;
  let told: string[] = [];

  beforeAll(async () => {
    test = await createLeaseApp(
      {
        lease: { ...optional, storeErrors: (status) => status === 402 },
        strict: { ...optional, isolation: 'SERIALIZABLE', retries: 3 },
        plain: { ...optional, mode: 'transaction' },
        scopeless: {
          ...optional,
          scope: () => {
            throw new Error('no tenant');
          },
        },
      },
      { adapter },
    );
  });

  afterEach(async () => {
    told = [];
    await test.reset();
  });

  afterAll(() => test.close());

  const post = (path: string, body: object = {}): Promise<RawResponse> =>
    test.request({
      method: 'POST',
      path,
      headers: [['Content-Type', 'application/json']],
      body: JSON.stringify(body),
    });

  /** What a handler does with all of its context. */
  const everything = async (context: IdempotencyContext<string | undefined>) => {
    const charge = await context.step('charge', () => ({ at: new Date(0), call: test.call('charge') }));
    const booked = await context.transaction('book', async (manager) => {
      await manager.save(Effect, { label: 'by the manager' });
      const effects = dataSourceOf(manager).getRepository(Effect); // that of the instance
      await effects.save({ label: 'by a repository' });
      return effects.count();
    });
    return {
      charge,
      booked,
      known: [context.key ?? null, context.scope, context.attempt, context.signal.aborted],
      found: (await context.find('other'))?.state ?? null,
      forgotten: await context.forget('other'),
    };
  };

  it('runs steps straight through, with the results that a key would give', async () => {
    test.script = everything;
    const [without, withKey] = [jsonOf(await post('/lease')), jsonOf(await test.post('/lease', 'k'))] as Awaited<
      ReturnType<typeof everything>
    >[];
    expect(without).toEqual({
      charge: { at: '1970-01-01T00:00:00.000Z', call: 'charge #1' },
      booked: 2,
      known: [null, '', 1, false],
      found: null,
      forgotten: false,
    });
    expect(withKey).toEqual({
      ...without,
      charge: { ...without!.charge, call: 'charge #2' },
      booked: 4,
      known: ['k', '', 1, false],
    });
    expect((await post('/lease')).status).toBe(201);
    expect(test.provider).toHaveLength(3); // nothing is remembered
    expect(await test.steps()).toEqual([]);
    expect(await test.effects()).toHaveLength(6);
  });

  it('finds and forgets the keys of its scope', async () => {
    test.script = () => 'done';
    await test.post('/lease', 'other');
    test.script = async (context) => [(await context.find('other'))?.state, await context.forget('other')];
    expect(jsonOf(await post('/lease'))).toEqual(['completed', true]);
    expect(await test.service.find('other')).toBeUndefined();
  });

  it('undoes a ctx.transaction that fails, and runs it again after a conflict', async () => {
    let tries = 0;
    test.script = async (context) => {
      await context
        .transaction('a', async (manager) => {
          await manager.save(Effect, { label: 'undone' });
          throw new HttpException('declined', 402);
        })
        .catch((error: HttpException) => told.push(error.message));
      return context.transaction('b', async (manager) => {
        await manager.save(Effect, { label: `b ${++tries}` });
        const conflict = tries === 1 ? `do $$ begin raise serialization_failure; end $$` : 'select 1';
        await manager.query(conflict);
        const [{ level }] = await manager.query(`select current_setting('transaction_isolation') as level`);
        return level as string;
      });
    };
    expect((await post('/strict')).body.toString()).toBe('serializable');
    expect(told).toEqual(['declined']);
    expect(await test.effects()).toEqual(['b 2']);
  });

  it('gets the errors of steps that a key would give', async () => {
    test.script = async (context) => {
      const errors: unknown[] = [];
      const note = (error: unknown) => void errors.push(error);
      await context.step('charge', () => test.call('charge'));
      await context.step('charge', () => test.call('charge')).catch(note);
      await context.step('outer', () => context.step('inner', () => test.call('inner'))).catch(note);
      await context.step('big', () => 1n as never).catch(note);
      expect(errors).toEqual([0, 1, 2].map(() => expect.any(DurableStepError)));
      return errors.map(String);
    };
    const errors = jsonOf(await post('/lease')) as string[];
    expect(errors).toEqual([
      expect.stringContaining('Two steps are named "charge"'),
      expect.stringContaining('inside of step "outer"'),
      expect.stringContaining('cannot be stored as JSON'),
    ]);
    expect(errors.join()).not.toContain('operator'); // there is no key for one to look at
    expect(test.provider).toEqual(['charge']);
  });

  it('has keys for providers of its own', async () => {
    test.script = (context) => [context.downstreamKey('a'), context.downstreamKey('a'), context.downstreamKey('b')];
    const keys = [jsonOf(await post('/lease')), jsonOf(await post('/lease'))] as string[][];
    expect(keys[0]![0]).toBe(keys[0]![1]);
    expect(new Set(keys.flat()).size).toBe(4);
  });

  it.each(['/lease', '/plain'])('runs what afterCommit was given once its handler has succeeded: %s', async (path) => {
    test.script = async (context, { fails }) => {
      context.afterCommit(() => told.push('by the context'));
      await Promise.resolve();
      test.service.afterCommit(() => told.push('by the service'));
      await test.dataSource.getRepository(Effect).save({ label: 'a' });
      expect(told).toEqual([]);
      if (fails) throw new Error('no');
      return 'done';
    };
    expect((await post(path, { fails: true })).status).toBe(500);
    expect((await post(path)).status).toBe(201);
    await waitFor(() => told.length >= 2, { what: 'the callbacks' });
    expect(told).toEqual(['by the context', 'by the service']);
  });

  it('runs it after the COMMIT of ctx.transaction, whatever becomes of the handler', async () => {
    test.script = async (context) => {
      await context.transaction('a', () => context.afterCommit(() => told.push('a')));
      expect(told).toEqual(['a']);
      throw new Error('no');
    };
    expect((await post('/lease')).status).toBe(500);
    expect(told).toEqual(['a']);
  });

  it('has no steps in transaction mode either, and says so', async () => {
    test.script = (context) => context.step('a', () => 1).catch((error: Error) => error.message);
    expect((await post('/plain')).body.toString()).toContain("mode: 'lease'");
  });

  it('does not fail because nobody can tell whose it is, unless it asks', async () => {
    test.script = (context, { asks }) => (asks ? context.find('k') : context.step('a', () => 'done'));
    expect((await post('/scopeless')).status).toBe(201);
    expect((await post('/scopeless', { asks: true })).status).toBe(500);
  });
});
