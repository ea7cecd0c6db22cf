import { Controller, Post } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { deferred } from '../../src/util/deferred.js';
import { Idempotent, IdempotencyContext, IdempotencyService } from '../../src/index.js';
import { queryOn } from '../support/empty-database.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

type Script = (context: IdempotencyContext) => unknown;

let script: Script;
/** Stands for a provider: each call is an effect that no transaction undoes. */
let provider: string[];

const LEASE_MS = 6_000;

@Controller()
class LeaseController {
  @Post('resume')
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS })
  resume(@IdempotencyContext() context: IdempotencyContext): unknown {
    return script(context);
  }

  @Post('fail-in-time')
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS, onInterrupted: 'fail', timeoutMs: 300 })
  failInTime(@IdempotencyContext() context: IdempotencyContext): unknown {
    return script(context);
  }

  @Post('fail')
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS, onInterrupted: 'fail' })
  fail(@IdempotencyContext() context: IdempotencyContext): unknown {
    return script(context);
  }
}

/** What a handler may leave behind when it ends, and what must not come of it. */
describe.each(ADAPTERS)('the end of a handler in lease mode, on %s', (adapter) => {
  let test: TestApp;
  let service: IdempotencyService;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [LeaseController] });
    service = test.app.get(IdempotencyService);
  });

  beforeEach(() => {
    provider = [];
  });

  afterEach(() => queryOn(test.databaseUrl, 'truncate idempotency_keys, idempotency_steps'));

  afterAll(() => test.close());

  const call = (name: string): string => {
    provider.push(name);
    return name;
  };

  const untilReleased = () =>
    waitFor(async () => (await service.find('k'))?.state === 'released', { what: 'the key to be given back' });

  it('keeps the key while a step beside the one that failed still runs', async () => {
    const gate = deferred();
    script = (context) =>
      Promise.all([
        context.step('charge', async () => {
          call('charge');
          await gate.promise;
        }),
        context.step('mail', () => {
          if (context.attempt === 1) throw new Error('no mail');
        }),
      ]);
    expect((await test.post('/fail', 'k')).status).toBe(500);
    expect((await test.post('/fail', 'k')).status).toBe(409);
    gate.resolve();
    await untilReleased();
    expect((await test.post('/fail', 'k')).status).toBe(201);
    expect(provider).toEqual(['charge']);
  });

  it('keeps the key while a step runs that an obedient handler has left', async () => {
    const gate = deferred();
    script = (context) =>
      Promise.race([
        context.step('charge', async () => {
          call('charge');
          await gate.promise;
        }),
        new Promise((_, reject) =>
          context.signal.addEventListener('abort', () => reject(context.signal.reason as Error)),
        ),
      ]);
    expect((await test.post('/fail-in-time', 'k')).status).toBe(503);
    expect((await test.post('/fail-in-time', 'k')).status).toBe(409);
    gate.resolve();
    await untilReleased();
    expect((await test.post('/fail-in-time', 'k')).status).toBe(201);
    expect(provider).toEqual(['charge']);
  });

  it('lets no step begin afterwards', async () => {
    const gate = deferred();
    const late = deferred<unknown>();
    script = async (context) => {
      if (context.attempt === 1) {
        void gate.promise.then(() => context.step('charge', () => call('late'))).catch(late.resolve);
        await context.step('other', () => 1);
        throw new Error('no');
      }
      await context.step('other', () => 1);
      return context.step('charge', () => call('charge'));
    };
    expect((await test.post('/resume', 'k')).status).toBe(500);
    expect((await test.post('/resume', 'k')).status).toBe(201);
    gate.resolve();
    expect(String(await late.promise)).toContain('after its handler has ended');
    expect(provider).toEqual(['charge']);
  });

  it('waits with the response for a step that nobody awaits', async () => {
    script = (context) => {
      void context.step('mail', async () => {
        await service.find('k');
        call('mail');
      });
      return 'done';
    };
    expect((await test.post('/resume', 'k')).status).toBe(201);
    expect(provider).toEqual(['mail']);
  });

  it.each([
    ['its memory was refused', 503, () => 'done'],
    ['its result cannot be stored', 500, () => 1n],
  ])('leaves it to a person where a step has had its effect and %s', async (_, status, result) => {
    script = (context) =>
      context.step('charge', () => {
        call('charge');
        return result();
      });
    await queryOn(test.databaseUrl, 'alter table idempotency_steps add constraint full_disk check (false) not valid');
    const first = await test.post('/fail', 'k');
    await queryOn(test.databaseUrl, 'alter table idempotency_steps drop constraint full_disk');
    expect([first.status, (await test.post('/fail', 'k')).status]).toEqual([status, 409]);
    expect(provider).toEqual(['charge']);
  });

  it('leaves it to a person where a handler has succeeded and its response was refused', async () => {
    script = () => call('charge');
    await queryOn(
      test.databaseUrl,
      'alter table idempotency_keys add constraint full_disk check (response_status is null) not valid',
    );
    const first = await test.post('/fail', 'k', { secret: 'body' });
    await queryOn(test.databaseUrl, 'alter table idempotency_keys drop constraint full_disk');
    expect([first.status, (await test.post('/fail', 'k', { secret: 'body' })).status]).toEqual([503, 409]);
    expect(provider).toEqual(['charge']);
  });

  it('tells steps of other requests, and of steps that are over, from steps inside of a step', async () => {
    const gate = deferred();
    script = async (context) => {
      let later: Promise<unknown> | undefined;
      await context.step('connect', () => {
        later = gate.promise.then(() => context.step('message', () => call('message')));
      });
      gate.resolve();
      return later;
    };
    expect((await test.post('/resume', 'k')).status).toBe(201);
    expect(provider).toEqual(['message']);
  });

  it('lets an operator resolve with no header that could not be sent', async () => {
    const unsendable: Record<string, string>[] = [{ 'X-Note': 'a\nb' }, { 'bad name': 'x' }, { 'Content-Length': '3' }];
    for (const headers of unsendable) {
      await expect(service.resolve('k', { status: 200, headers })).rejects.toThrow(/header/i);
    }
  });
});
