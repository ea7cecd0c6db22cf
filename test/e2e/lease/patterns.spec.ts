import { AsyncResource } from 'node:async_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { from, lastValueFrom, mergeMap, toArray } from 'rxjs';
import { deferred } from '../../../src/util/deferred.js';
import type { IdempotencyContext } from '../../../src/index.js';
import { ADAPTERS } from '../../support/test-app.js';
import { createLeaseApp, jsonOf, type LeaseApp } from './lease-fixture.js';

/** A queue of a module, one at a time: what ends starts the next, in its own asynchronous context, as p-queue does. */
class Queue {
  private readonly waiting: (() => void)[] = [];
  private busy = false;

  add<T>(work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.waiting.push(() => {
        void work()
          .then(resolve, reject)
          .finally(() => {
            this.busy = false;
            this.next();
          });
      });
      this.next();
    });
  }

  private next(): void {
    if (!this.busy && this.waiting.length > 0) {
      this.busy = true;
      this.waiting.shift()!();
    }
  }
}

describe.each(ADAPTERS)('handlers as people write them, on %s', (adapter) => {
  let test: LeaseApp;

  beforeAll(async () => {
    test = await createLeaseApp({ run: {} }, { adapter });
  });

  afterEach(() => test.reset());

  afterAll(() => test.close());

  /** Fails at its end on the first attempt, and must give in the second what it would have given. */
  const twice = async (script: (context: IdempotencyContext) => unknown): Promise<unknown> => {
    test.script = async (context) => {
      const result = await script(context);
      if (context.attempt === 1) throw new Error('once more');
      return result;
    };
    expect((await test.post('/run', 'k')).status).toBe(500);
    const calls = [...test.provider];
    const second = await test.post('/run', 'k');
    expect([second.status, test.provider]).toEqual([201, calls]);
    return second.body.toString().startsWith('[') ? jsonOf(second) : second.body.toString();
  };

  it('may run the work of steps, and steps, by one queue', async () => {
    const queue = new Queue();
    const result = await twice(async (context) => {
      const [running, gate] = [deferred(), deferred()];
      const first = context.step('a', async () => {
        const called = await queue.add(async () => {
          running.resolve();
          await gate.promise;
          return test.call('a');
        });
        await delay(5); // it has a little to do behind its job
        return called;
      });
      await (context.attempt === 1 && running.promise);
      const others = ['b', 'c'].map((name) => queue.add(() => context.step(name, () => test.call(name))));
      gate.resolve();
      return Promise.all([first, ...others]);
    });
    expect(result).toEqual(['a #1', 'b #2', 'c #3']);
  });

  it('may be Observables, and generators that are run in the handler', async () => {
    const steps = async function* (context: IdempotencyContext) {
      for (const key of [1, 2, 3]) yield await context.step('page', { key }, () => test.call(`page ${key}`));
    };
    const result = await twice(async (context) => {
      const pages: string[] = [];
      for await (const page of steps(context)) pages.push(page);
      const rest = await lastValueFrom(
        from([4, 5, 6]).pipe(
          mergeMap((key) => context.step('item', { key }, () => test.call(`item ${key}`)), 2),
          toArray(),
        ),
      );
      return [...pages, ...rest.toSorted()];
    });
    expect(result).toHaveLength(6);
  });

  it('may hand their signal on with others, and take the first of several', async () => {
    const result = await twice(async (context) => {
      const signal = AbortSignal.any([context.signal, AbortSignal.timeout(60_000)]);
      const found = await Promise.any([
        context.step('a', () => {
          signal.throwIfAborted();
          test.call('a');
          throw new Error('not here');
        }),
        context.step('b', () => test.call('b')),
      ]);
      await context.step('c', () => test.call('c'));
      return found;
    });
    expect(result).toBe('b #2');
  });

  it('may bind what they hand to others', async () => {
    const result = await twice(async (context) => {
      const { step, transaction, downstreamKey } = context;
      const bound = AsyncResource.bind(() => step('bound', () => test.call('bound')));
      return [
        await bound(),
        await transaction('t', () => 7),
        downstreamKey('bound') === context.downstreamKey('bound'),
      ];
    });
    expect(result).toEqual(['bound #1', 7, true]);
  });
});
