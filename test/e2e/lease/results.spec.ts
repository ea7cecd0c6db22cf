import { Readable } from 'node:stream';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { of } from 'rxjs';
import { DurableStepError } from '../../../src/index.js';
import { ADAPTERS } from '../../support/test-app.js';
import { createLeaseApp, type LeaseApp } from './lease-fixture.js';

describe.each(ADAPTERS)('what a step returns, on %s', (adapter) => {
  let test: LeaseApp;

  beforeAll(async () => {
    test = await createLeaseApp({ run: {}, keyless: { required: false } }, { adapter });
  });

  afterEach(() => test.reset());

  afterAll(() => test.close());

  it.each([
    ['an Observable', () => of(test.call('never')), 'firstValueFrom'],
    ['a function', () => () => test.call('never'), 'call it'],
    [
      'a generator',
      function* () {
        yield test.call('never');
      },
      'is a generator',
    ],
    [
      'an async generator',
      async function* () {
        yield await Promise.resolve(test.call('never'));
      },
      'is a generator',
    ],
  ])('must have run: %s has not, and a corrected version goes on', async (_, run, advice) => {
    const seen: unknown[] = [];
    test.script = (context) =>
      context.step('charge', run as () => unknown).catch((error: unknown) => {
        seen.push(error);
        throw error;
      });
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect(seen).toEqual([expect.any(DurableStepError)]);
    expect(String(seen[0])).toContain(advice);
    test.script = (context) => context.step('charge', () => test.call('charge'));
    expect((await test.post('/run', 'k')).status).toBe(201);
  });

  it.each([
    ['a Response', () => new Response('{}'), 'Response.*response.json()'],
    ['a stream', () => Readable.from(['a']), 'Readable.*read it in the step'],
    ['a Map', () => new Map([['id', 1]]), 'Map.*Object.fromEntries'],
    ['a list of promises', () => [Promise.resolve(1)], 'has a Promise.*Promise.all'],
    ['a list of Responses', () => [{ first: new Response('{}') }], 'has a Response.*response.json()'],
    ['a Set', () => new Set([1]), 'Set.*list of its members'],
  ])('must be kept by JSON: %s is not, and its effect is not repeated', async (_, result, message) => {
    const seen: unknown[] = [];
    test.script = (context) =>
      context
        .step('charge', () => {
          test.call('charge');
          return result() as unknown;
        })
        .catch((error: unknown) => {
          seen.push(error);
          throw error;
        });
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect((await test.post('/run', 'k')).status).toBe(409);
    expect(String(seen[0])).toMatch(new RegExp(message));
    expect(test.provider).toEqual(['charge']);
  });

  it('undoes a ctx.transaction whose result is not kept', async () => {
    test.script = async (context) =>
      context.transaction('book', async (manager) => {
        await manager.query(`insert into effects (label) values ('undone')`);
        return new Map() as unknown;
      });
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect(await test.effects()).toEqual([]);
  });

  it('may be of a class, with fields or without', async () => {
    class Nothing {}
    class Charge {
      readonly id = 7;
    }
    test.script = async (context) => [
      await context.step('a', () => new Charge()),
      await context.step('b', () => new Nothing()),
      await context.step('c', () => Buffer.from('a')),
    ];
    expect((await test.post('/run', 'k')).body.toString()).toBe('[{"id":7},{},{"type":"Buffer","data":[97]}]');
  });
});
