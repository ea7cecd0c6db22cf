import { ConflictException } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { QueryFailedError } from 'typeorm';
import type { IdempotencyContext } from '../../../src/index.js';
import { ADAPTERS } from '../../support/test-app.js';
import { createLeaseApp, jsonOf, type LeaseApp } from './lease-fixture.js';

describe.each(ADAPTERS)('the failure of a step, on %s', (adapter) => {
  let test: LeaseApp;

  beforeAll(async () => {
    test = await createLeaseApp({ run: {} }, { adapter });
  });

  afterEach(() => test.reset());

  afterAll(() => test.close());

  const failing = (name: string, error: Error) => () => {
    test.call(name);
    throw error;
  };

  /** Fails on the first attempt only. */
  const book = (context: IdempotencyContext, value?: unknown) =>
    context.step('book', () => {
      test.call('book');
      if (context.attempt === 1) throw new Error('no booking');
      return value;
    });

  it('that the handler went on with is given again by later attempts', async () => {
    const seen: Error[] = [];
    test.script = async (context) => {
      const error = Object.assign(new RangeError('declined'), { code: 'card_declined', raw: { secret: 1 } });
      const charged = await context.step('charge at A', failing('A', error)).catch((caught: Error) => {
        seen.push(caught);
        return context.step('charge at B', () => test.call('B'));
      });
      return book(context, charged);
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect((await test.steps()).map(({ name }) => name)).toEqual(['charge at A', 'charge at B']);
    const second = await test.post('/run', 'k');
    expect([second.status, second.body.toString()]).toEqual([201, 'B #2']);
    expect(test.provider).toEqual(['A', 'B', 'book', 'book']);
    // Its class is lost, and what is no plain value.
    expect(seen.map(({ name, message, ...own }) => [name, message, own])).toEqual([
      ['RangeError', 'declined', { code: 'card_declined', raw: { secret: 1 } }],
      ['RangeError', 'declined', expect.not.objectContaining({ raw: expect.anything() })],
    ]);
    expect(seen[1]).toMatchObject({ code: 'card_declined' });
  });

  it('that was told by Promise.allSettled() is told again', async () => {
    test.script = async (context) => {
      const [mail] = await Promise.allSettled([
        context.step('mail', failing('mail', new Error('no mail'))),
        context.step('charge', () => test.call('charge')),
      ]);
      return { mail: await book(context, mail.status) };
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    const second = await test.post('/run', 'k');
    expect([second.status, jsonOf(second)]).toEqual([201, { mail: 'rejected' }]);
    expect(test.provider).toEqual(['mail', 'charge', 'book', 'book']);
  });

  it.each([
    ['itself', (error: unknown) => error],
    ['as a cause', (cause: unknown) => new Error('payment failed', { cause })],
    ['among others', (error: unknown) => new AggregateError([new Error('other'), error])],
  ])('is withdrawn when the attempt ends with it %s, so that a retry tries again', async (_, wrap) => {
    let failures = 1;
    test.script = (context) =>
      context
        .step('charge', () => {
          test.call('charge');
          if (failures-- > 0) throw new Error('provider is down');
          return 'charged';
        })
        .catch(async (error: unknown) => {
          await context.step('tell', () => test.call('tell')); // before which the failure is written down
          throw wrap(error);
        });
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect((await test.steps()).map(({ name }) => name)).toEqual(['tell']);
    test.script = async (context) => {
      const charged = await context.step('charge', () => test.call('charge'));
      await context.step('tell', () => test.call('tell'));
      return charged;
    };
    const second = await test.post('/run', 'k');
    expect([second.status, second.body.toString()]).toEqual([201, 'charge #3']);
    expect(test.provider).toEqual(['charge', 'tell', 'charge']);
  });

  it('of a transaction is remembered like any other', async () => {
    test.script = async (context) => {
      const written = await context
        .transaction('write', async (manager) => {
          test.call('write');
          await manager.query('insert into no_such_table values (1)');
        })
        .catch((error: { code: string }) => error.code);
      return book(context, written);
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    const second = await test.post('/run', 'k');
    expect([second.status, second.body.toString()]).toEqual([201, '42P01']);
    expect(test.provider).toEqual(['write', 'book', 'book']);
    expect(JSON.stringify(await test.steps())).not.toContain('no_such_table values');
  });

  it('is not withdrawn because a later one has thrown the same constant', async () => {
    const DOWN = new Error('down');
    test.script = async (context) => {
      await context
        .step('at A', () => {
          test.call('at A');
          throw DOWN;
        })
        .catch(() => context.step('at B', () => test.call('at B')));
      await context.step('book', () => {
        test.call('book');
        if (context.attempt === 1) throw DOWN;
      });
      return 'done';
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(test.provider).toEqual(['at A', 'at B', 'book', 'book']);
  });

  it.each([
    ['of NestJS', () => new ConflictException({ code: 'duplicate' }), ConflictException],
    ['of JavaScript', () => new RangeError('out of range'), RangeError],
    ['of TypeORM', () => test.dataSource.query('insert into no_such_table values (1)'), QueryFailedError],
  ])('is given again as what it was by its class: one %s', async (_, fail, errorClass) => {
    const seen: unknown[] = [];
    test.script = async (context) => {
      const work = async (): Promise<never> => {
        const error: unknown = await fail();
        throw error;
      };
      await context.step('charge', work).catch((error: unknown) => seen.push(error));
      return book(context, 'done');
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(seen).toEqual([expect.any(errorClass), expect.any(errorClass)]);
    const [first, again] = seen as (Error & { driverError?: { code: string } })[];
    expect([again!.name, again!.message]).toEqual([first!.name, first!.message]);
    expect(again!.driverError?.code).toBe(first!.driverError?.code);
  });

  it('is not run again because its class was not known again, where an earlier attempt went on from it', async () => {
    class Declined extends Error {}
    test.script = async (context) => {
      await context.step('at A', failing('at A', new Declined('no'))).catch((error: unknown) => {
        if (!(error instanceof Declined)) throw error;
        return context.step('at B', () => test.call('at B'));
      });
      return book(context);
    };
    for (const attempt of [1, 2, 3]) {
      expect([attempt, (await test.post('/run', 'k')).status]).toEqual([attempt, 500]);
    }
    expect(test.provider).toEqual(['at A', 'at B', 'book']);
    expect(await test.service.find('k')).toMatchObject({
      state: 'steps-changed',
      attention: { steps: ['at B'], detail: expect.stringContaining('`instanceof`') },
    });
    expect(test.logs.join()).toMatch(/passed by "at B".*"at A".*lost its class/);

    test.script = async (context) => {
      await context.step('at A', failing('at A', new Declined('no'))).catch((error: Error) => {
        if (error.message !== 'no') throw error;
        return context.step('at B', () => test.call('at B'));
      });
      return book(context, 'done');
    };
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(test.provider).toEqual(['at A', 'at B', 'book', 'book']);
  });

  it('is said to be tried again without what was done about it, a compensation for instance', async () => {
    const compensating = (ending: (error: unknown) => unknown): void => {
      test.script = async (context) => {
        const charged = await context.step('charge', () => test.call('charge'));
        try {
          await book(context);
        } catch (error) {
          await context.step('refund', () => test.call('refund'));
          throw ending(error);
        }
        return charged;
      };
    };
    compensating((error) => error);
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect(test.logs.filter((line) => line.includes('"refund"'))).toEqual([
      expect.stringMatching(/what "book" failed with, behind which it has finished "refund".*an error of its own/),
    ]);

    test.logs.length = 0;
    compensating(() => new Error('not booked, and refunded'));
    for (const attempt of [1, 2]) {
      expect([attempt, (await test.post('/run', 'other')).status]).toEqual([attempt, 500]);
    }
    expect(test.provider.filter((call) => call === 'refund')).toHaveLength(2);
    expect(test.logs.filter((line) => line.includes('behind which'))).toEqual([]);
  });

  it.each([
    ['whose message is an object', () => Object.assign(new Error(), { message: { code: 7 } })],
    ['whose message is undefined', () => Object.assign(new Error(), { message: undefined })],
    ['without a prototype', () => Object.create(null) as object],
    [
      'of which a property throws',
      () =>
        Object.defineProperty(new Error('no'), 'details', {
          enumerable: true,
          get: () => {
            throw new Error('of a getter');
          },
        }),
    ],
  ])('reaches the handler as what it is: an error %s', async (_, make) => {
    const seen: unknown[] = [];
    const thrown = make();
    test.script = async (context) => {
      await context
        .step('charge', () => {
          test.call('charge');
          throw thrown;
        })
        .catch((error: unknown) => seen.push(error));
      await context.step('other', () => test.call('other'));
      if (context.attempt === 1) throw new Error('once more');
      return 'done';
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    expect((await test.post('/run', 'k')).status).toBe(201);
    expect(seen[0]).toBe(thrown);
    expect(seen[1]).toBeInstanceOf(Error);
    expect(test.provider).toEqual(['charge', 'other']);
  });
});
