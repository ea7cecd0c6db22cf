import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { ADAPTERS } from '../../support/test-app.js';
import { createLeaseApp, type LeaseApp, problemOf } from './lease-fixture.js';

const UNKNOWN = [409, 'urn:nestjs-idempotency:outcome-unknown'];

/** As a response of axios is, whose request has it as its response. */
function cycle(): object {
  const response: Record<string, unknown> = { status: 200 };
  response['request'] = { response };
  return response;
}

describe.each(ADAPTERS)('a result that cannot be kept, on %s', (adapter) => {
  let test: LeaseApp;

  beforeAll(async () => {
    test = await createLeaseApp(
      { resume: {}, fail: { onInterrupted: 'fail' }, bounded: { maxStepsBytes: 1_000 } },
      { adapter },
    );
  });

  afterEach(() => test.reset());

  afterAll(() => test.close());

  describe.each(['resume', 'fail'])("leaves its key to an operator under '%s'", (path) => {
    it.each([
      ['a BigInt', () => 1n],
      ['a cycle', cycle],
      ['more than 1 MiB', () => 'x'.repeat(1024 * 1024)],
      [
        'a toJSON() that throws',
        () => ({
          toJSON: () => {
            throw new TypeError('no');
          },
        }),
      ],
    ])('when it is %s', async (_, result) => {
      test.script = (context) =>
        context.step('charge', () => {
          test.call('charge');
          return result() as never;
        });
      const first = await test.post(`/${path}`, 'k');
      expect(first.status).toBe(500);
      expect(test.logs.join()).toMatch(/step "charge".*IdempotencyService\.resolve\(\)/s);
      for (let retries = 0; retries < 2; retries++) {
        const retry = await test.post(`/${path}`, 'k');
        expect(problemOf(retry)).toEqual(UNKNOWN);
        expect(retry.body.toString()).toContain('\\"charge\\"');
      }
      expect(await test.service.find('k')).toMatchObject({
        state: 'interrupted',
        attention: { reason: 'effect-unknown', steps: ['charge'] },
      });
      expect(test.provider).toEqual(['charge']);
      expect(await test.service.resolve('k', { status: 201, body: { id: 1 } })).toBe(true);
      expect((await test.post(`/${path}`, 'k')).body.toString()).toBe('{"id":1}');
      expect(await test.steps()).toEqual([]);
    });
  });

  it('is run again where an operator says so, but nothing else is', async () => {
    test.script = async (context) => {
      await context.step('reserve', () => test.call('reserve'));
      return context.step('charge', () => {
        test.call('charge');
        return (context.attempt === 1 ? 1n : 'charged') as never;
      });
    };
    expect((await test.post('/resume', 'k')).status).toBe(500);
    expect(problemOf(await test.post('/resume', 'k'))).toEqual(UNKNOWN);
    expect(await test.service.release('k')).toBe(true);
    const answer = await test.post('/resume', 'k');
    expect([answer.status, answer.body.toString()]).toEqual([201, 'charged']);
    expect(test.provider).toEqual(['reserve', 'charge', 'charge']);
  });

  it('is no reason to stop for a transaction, which is undone', async () => {
    test.script = (context) =>
      context.transaction('write', () => {
        test.call('write');
        return (context.attempt === 1 ? 1n : 'written') as never;
      });
    expect((await test.post('/resume', 'k')).status).toBe(500);
    expect((await test.post('/resume', 'k')).status).toBe(201);
    expect(test.provider).toEqual(['write', 'write']);
  });

  it('is refused before the effect, once the results of a key are as many as may be', async () => {
    test.script = async (context) => {
      await context.step('large', () => 'x'.repeat(1_000));
      await context.step('charge', () => test.call('charge'));
    };
    for (let attempts = 0; attempts < 2; attempts++) {
      expect((await test.post('/bounded', 'k')).status).toBe(500);
    }
    expect(test.logs.join()).toMatch(/Step "charge" is not begun.*maxStepsBytes/);
    expect(test.provider).toEqual([]);
  });
});
