import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { DurableStepError, type IdempotencyContext } from '../../../src/index.js';
import { ADAPTERS } from '../../support/test-app.js';
import { createLeaseApp, jsonOf, type LeaseApp, problemOf } from './lease-fixture.js';

const CHANGED = [409, 'urn:nestjs-idempotency:steps-changed'];

describe.each(ADAPTERS)('the names of durable steps, on %s', (adapter) => {
  let test: LeaseApp;

  beforeAll(async () => {
    test = await createLeaseApp({ run: {} }, { adapter });
  });

  afterEach(() => test.reset());

  afterAll(() => test.close());

  /** A handler that comes by these steps, and fails behind them on its first attempts. */
  const sequence = (names: string[], fails: boolean) => async (context: IdempotencyContext) => {
    for (const name of names) await context.step(name, () => test.call(name));
    if (fails) throw new Error('down');
    return names;
  };

  it('match them where chains run side by side, whatever order latency gives them', async () => {
    let failures = 1;
    test.script = async (context) => {
      const pace = context.attempt === 1 ? [30, 1, 15] : [1, 30, 15];
      const results = await Promise.all(
        pace.map(async (ms, i) => {
          await delay(ms);
          const reserved = await context.step(`reserve ${i}`, async () => {
            await delay(ms);
            return test.call(`reserve ${i}`);
          });
          await delay(ms);
          return [reserved, await context.step(`charge ${i}`, () => test.call(`charge ${i}`))];
        }),
      );
      if (failures-- > 0) throw new Error('down');
      return results;
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(test.provider.toSorted()).toEqual([0, 1, 2].flatMap((i) => [`charge ${i}`, `reserve ${i}`]).toSorted());
  });

  it('match them where only some of the chains had come to their end', async () => {
    test.script = async (context) =>
      Promise.all(
        [0, 1, 2].map(async (i) => {
          await context.step(`reserve ${i}`, async () => {
            if (context.attempt === 1 && i === 0) {
              await delay(50);
              throw new Error('down');
            }
            test.call(`reserve ${i}`);
          });
          await context.step(`charge ${i}`, () => test.call(`charge ${i}`));
        }),
      );
    expect((await test.post('/run', 'k')).status).toBe(500);
    await test.untilState('k', 'released'); // the steps beside the one that failed have ended
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(new Set(test.provider).size).toBe(6);
    expect(test.provider).toHaveLength(6);
  });

  it('match them where a time limit has decided which of two came first', async () => {
    test.script = async (context) => {
      const quote = context.step('quote', async () => {
        await delay(50);
        return test.call('quote');
      });
      const first = await Promise.race([quote, delay(context.attempt === 1 ? 5 : 500, 'no quote')]);
      const booked = first === 'no quote' ? await context.step('book without', () => test.call('book without')) : first;
      await quote;
      if (context.attempt === 1) throw new Error('down');
      await context.step('confirm', () => test.call('confirm'));
      return booked;
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(test.provider).toEqual(['book without', 'quote', 'confirm']);
  });

  it.each([
    [
      'before `run`',
      (context: IdempotencyContext, id: number) => context.step('charge', { key: id }, () => test.call(`charge ${id}`)),
    ],
    [
      'behind it',
      (context: IdempotencyContext, id: number) => context.step('charge', () => test.call(`charge ${id}`), { key: id }),
    ],
  ])('tell the items of a loop apart by a key, given %s', async (_, charge) => {
    let failures = 1;
    test.script = async (context) => {
      const charges = [];
      for (const id of [7, 8]) charges.push(await charge(context, id));
      if (failures-- > 0) throw new Error('down');
      return [charges, [7, 8].map((key) => context.downstreamKey('charge', { key }))];
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect(await test.service.find('k')).toMatchObject({ steps: ['charge [7]', 'charge [8]'] });
    const [charges, keys] = jsonOf(await test.post('/run', 'k')) as [string[], string[]];
    expect(charges).toEqual(['charge 7 #1', 'charge 8 #2']);
    expect(new Set(keys).size).toBe(2);
  });

  it('are told of where a handler has taken the refusal of a second one for done', async () => {
    test.script = (context) =>
      Promise.allSettled(['ada', 'bob'].map((to) => context.step('mail', () => test.call(`mail ${to}`))));
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(test.provider).toEqual(['mail ada']);
    expect(test.logs).toEqual([
      expect.stringMatching(/\/run was recorded although a step was refused: Two steps are named "mail"/),
    ]);
  });

  it('refuse a second step of a name in words that do not hide what the first has failed with', async () => {
    const seen: unknown[] = [];
    test.script = async (context) => {
      for (let tries = 0; tries < 2; tries++) {
        await context
          .step('charge', () => {
            test.call('charge');
            throw new Error('card declined');
          })
          .catch((error: unknown) => seen.push(error));
      }
      await context.step('mail', { key: undefined }, () => 1).catch((error: unknown) => seen.push(error));
      await context.step('mail', { key: Number.NaN }, () => 1).catch((error: unknown) => seen.push(error));
      await context.step('other', { kye: 1 } as never, () => 1).catch((error: unknown) => seen.push(error));
      return 'done';
    };
    expect((await test.post('/run', 'k')).status).toBe(201);
    const [declined, second, ...others] = seen as Error[];
    expect(second).toBeInstanceOf(DurableStepError);
    expect(second!.message).toMatch(/Two steps are named "charge".*\{ key: item\.id \}.*card declined/);
    expect(second!.cause).toBe(declined);
    expect(others.map(String)).toEqual([
      expect.stringContaining('key of step "mail"'),
      expect.stringContaining(`no option 'kye'`),
    ]);
    expect(test.provider).toEqual(['charge']);
  });

  it.each([
    ['inserts', ['a', 'b'], ['a', 'new', 'b'], ['b']],
    ['renames', ['a', 'b'], ['a', 'b, version 2'], ['b']],
    ['renames the only', ['charge'], ['charge card'], ['charge']],
    ['removes', ['a', 'b'], ['a', 'c'], ['b']],
    ['removes the last', ['a', 'b'], ['a'], ['b']],
  ])('find out about a version that %s steps, before any effect of it', async (_, before, after, steps) => {
    test.script = sequence(before, true);
    expect((await test.post('/run', 'k')).status).toBe(500);
    for (let retries = 0; retries < 2; retries++) {
      test.script = sequence(after, false);
      expect(problemOf(await test.post('/run', 'k'))).toEqual(CHANGED);
      expect(await test.service.find('k')).toMatchObject({
        state: 'steps-changed',
        attention: { reason: 'steps-changed', steps, detail: expect.stringContaining('release') },
      });
    }
    expect(test.logs.join()).toContain(`has passed by "${steps[0]}"`);
    expect(test.provider).toEqual(before);

    test.script = sequence(before, false); // the deploy was taken back
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(test.provider).toEqual(before);
  });

  it.each([
    ['put in', ['a', 'b'], ['a', 'new', 'b']],
    ['renamed', ['charge'], ['charge card']],
    ['removed', ['a', 'b'], ['a']],
  ])('let an operator have the new version go on, with a step %s', async (_, before, after) => {
    test.script = sequence(before, true);
    expect((await test.post('/run', 'k')).status).toBe(500);
    test.script = sequence(after, false);
    expect((await test.post('/run', 'k')).status).toBe(409);
    expect(await test.service.release('k')).toBe(true);
    expect(await test.service.find('k')).toMatchObject({ state: 'released', attention: undefined });
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(test.provider).toEqual([...before, ...after.filter((name) => !before.includes(name))]);
  });

  it('go on where only the order of finished steps has changed, and say so', async () => {
    test.script = sequence(['a', 'b'], true);
    expect((await test.post('/run', 'k')).status).toBe(500);
    test.script = sequence(['b', 'a', 'c'], true);
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect(test.logs.join()).toContain('has passed by "a"');
    expect(await test.service.find('k')).toMatchObject({
      state: 'released',
      attention: { reason: 'steps-reordered', steps: ['a'] },
    });
    test.script = sequence(['b', 'a', 'c'], false);
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(test.provider).toEqual(['a', 'b', 'c']);
  });
});
