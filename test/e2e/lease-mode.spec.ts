import { EventEmitter, once } from 'node:events';
import {
  BadRequestException,
  Body,
  Controller,
  HttpCode,
  HttpException,
  Param,
  Post,
  Query,
  type INestApplication,
} from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { deferred, type Deferred } from '../../src/deferred.js';
import {
  DurableStepError,
  Idempotent,
  IdempotencyContext,
  IdempotencyLeaseLostException,
  IdempotencyService,
} from '../../src/index.js';
import { Effect } from '../support/effect.entity.js';
import { queryOn } from '../support/empty-database.js';
import type { RawResponse } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

/** Stands for a provider: each call is an effect that no transaction undoes. */
let provider: string[];
/** What a handler does when it is asked to, by name. */
let scripts: Record<string, (context: IdempotencyContext, body: Record<string, unknown>) => unknown>;
/** What handlers met that nobody sees on the wire. */
let seen: unknown[];

/** Longer than a busy machine keeps any process waiting; where a lease has to expire it is back-dated. */
const LEASE_MS = 6_000;

/** For what happens by renewals, or in spite of none. */
const SHORT_LEASE_MS = 1_500;

@Controller()
class LeaseController {
  @Post('run/:script')
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS, storeErrors: (status) => status === 402 })
  run(
    @IdempotencyContext() context: IdempotencyContext,
    @Param('script') script: string,
    @Body() body: Record<string, unknown>,
  ): unknown {
    return scripts[script]!(context, body);
  }

  @Post('fail/:script')
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS, onInterrupted: 'fail', timeoutMs: 300 })
  fail(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('wait/:script')
  @HttpCode(202)
  @Idempotent({ mode: 'lease', leaseMs: LEASE_MS, inFlight: { waitMs: 10_000 } })
  wait(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('short/:script')
  @Idempotent({ mode: 'lease', leaseMs: SHORT_LEASE_MS })
  short(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('strict/:script')
  @Idempotent({ mode: 'lease', leaseMs: SHORT_LEASE_MS, isolation: 'SERIALIZABLE', retries: 10 })
  strict(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('plain/:script')
  @Idempotent()
  plain(@IdempotencyContext() context: IdempotencyContext, @Param('script') script: string): unknown {
    return scripts[script]!(context, {});
  }

  @Post('validated')
  @Idempotent({ mode: 'lease' })
  validated(@Query('amount') amount: string): unknown {
    if (!amount) throw new BadRequestException('no amount');
    provider.push(`charge ${amount}`);
    return { amount };
  }
}

function headerOf({ headerLines }: RawResponse, name: string): string | undefined {
  const line = headerLines.find((candidate) => candidate.toLowerCase().startsWith(`${name}:`));
  return line?.slice(name.length + 1).trim();
}

describe.each(ADAPTERS)('lease mode on %s', (adapter) => {
  let test: TestApp;
  let other: TestApp;
  let service: IdempotencyService;

  beforeAll(async () => {
    const options = { adapter, controllers: [LeaseController] };
    test = await createTestApp(options);
    other = await createTestApp({ ...options, databaseUrl: test.databaseUrl });
    service = test.app.get(IdempotencyService);
  });

  beforeEach(() => {
    test.logs.length = 0; // of two DataSources in one process, which is of no concern here
  });

  afterAll(async () => {
    await other.close();
    await test.close();
  });

  afterEach(async () => {
    await queryOn(test.databaseUrl, 'truncate idempotency_keys, idempotency_steps, effects');
  });

  const call = (name: string): string => {
    provider.push(name);
    return `${name} #${provider.length}`;
  };

  const begin = (): void => {
    provider = [];
    scripts = {};
    seen = [];
  };

  const rows = () => queryOn<Record<string, unknown>>(test.databaseUrl, 'select * from idempotency_keys order by key');
  const steps = () =>
    queryOn<Record<string, unknown>>(test.databaseUrl, 'select * from idempotency_steps order by position');
  const effects = () => test.effects();

  /** As if the process that holds the key had died a while ago. */
  const expireLease = (key: string) =>
    queryOn(test.databaseUrl, `update idempotency_keys set lease_expires_at = clock_timestamp() where key = $1`, [key]);

  const untilRunning = (key: string) =>
    waitFor(async () => (await service.find(key))?.state === 'running', { what: `${key} to run`, timeoutMs: 10_000 });

  it('answers like transaction mode: first, replay, mismatch', async () => {
    begin();
    scripts['pay'] = async (context, body) => ({ id: await context.step('charge', () => call('charge')), ...body });
    const first = await test.post('/run/pay', 'k', { amount: 1 });
    const replay = await other.post('/run/pay', 'k', { amount: 1 });
    expect(first.status).toBe(201);
    expect(JSON.parse(first.body.toString())).toEqual({ id: 'charge #1', amount: 1 });
    expect(replay.status).toBe(201);
    expect(replay.body).toEqual(first.body);
    expect(headerOf(replay, 'idempotency-replayed')).toBe('true');
    expect((await test.post('/run/pay', 'k', { amount: 2 })).status).toBe(422);
    expect(provider).toEqual(['charge']);
    expect(await steps()).toEqual([]); // they have done their duty
    expect(await rows()).toMatchObject([{ attempt: 1, lease_expires_at: null, response_status: 201 }]);
    expect(test.logs).toEqual([]);
  });

  it('holds no transaction and no connection while the handler runs', async () => {
    begin();
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return 'done';
    };
    const running = test.post('/run/slow', 'k');
    await untilRunning('k');
    const open = await queryOn(
      test.databaseUrl,
      `select 1 from pg_stat_activity where datname = current_database() and xact_start is not null and pid <> pg_backend_pid()`,
    );
    expect(open).toEqual([]);
    gate.resolve();
    expect((await running).status).toBe(201);
  });

  it('tells a duplicate of a running request 409 at once, and 422 when it is another', async () => {
    begin();
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return 'done';
    };
    const running = test.post('/run/slow', 'k', { a: 1 });
    await untilRunning('k');
    for (const instance of [test, other]) {
      const duplicate = await instance.post('/run/slow', 'k', { a: 1 });
      expect([duplicate.status, headerOf(duplicate, 'retry-after')]).toEqual([409, '1']);
      expect((await instance.post('/run/slow', 'k', { a: 2 })).status).toBe(422);
    }
    gate.resolve();
    expect((await running).status).toBe(201);
  });

  it('lets a duplicate wait for the replay, in the same process and in another', async () => {
    begin();
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return { n: 1 };
    };
    const running = test.post('/wait/slow', 'k');
    await untilRunning('k');
    const waiting = [test.post('/wait/slow', 'k'), other.post('/wait/slow', 'k')];
    gate.resolve();
    const [first, ...replays] = await Promise.all([running, ...waiting]);
    for (const replay of replays) {
      expect([replay.status, replay.body.toString()]).toEqual([202, first!.body.toString()]);
      expect(headerOf(replay, 'idempotency-replayed')).toBe('true');
    }
  });

  it('renews the lease for as long as the handler runs', async () => {
    begin();
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return 'done';
    };
    const running = test.post('/short/slow', 'k');
    await untilRunning('k');
    const [before] = await rows();
    await waitFor(async () => (await rows())[0]!['lease_expires_at']! > before!['lease_expires_at']!, {
      what: 'a renewal',
      timeoutMs: 10_000,
    });
    await waitFor(async () => new Date() > (before!['lease_expires_at'] as Date), {
      what: 'the first lease to end',
      timeoutMs: 10_000,
    });
    expect((await other.post('/short/slow', 'k')).status).toBe(409);
    gate.resolve();
    expect((await running).status).toBe(201);
  });

  it('goes on from the finished steps after a failure, and after a 500', async () => {
    begin();
    let failures = 2;
    scripts['pay'] = async (context) => {
      const charge = await context.step('charge', () => call('charge'));
      if (failures-- > 0) throw new Error('no');
      const receipt = await context.step('receipt', () => call('receipt'));
      return { charge, receipt, attempt: context.attempt };
    };
    expect((await test.post('/run/pay', 'k')).status).toBe(500);
    expect(await service.find('k')).toMatchObject({ state: 'released', attempt: 1, steps: ['charge'] });
    expect((await other.post('/run/pay', 'k')).status).toBe(500);
    const third = await test.post('/run/pay', 'k');
    expect(JSON.parse(third.body.toString())).toEqual({ charge: 'charge #1', receipt: 'receipt #2', attempt: 3 });
    expect(provider).toEqual(['charge', 'receipt']);
  });

  it('leaves the key unused where a request failed before its first step', async () => {
    begin();
    expect((await test.post('/validated', 'k')).status).toBe(400);
    expect(await rows()).toEqual([]);
    expect((await test.post('/validated?amount=5', 'k')).status).toBe(201); // another payload, and not 422
  });

  it('keeps a payload to what its steps were begun for', async () => {
    begin();
    scripts['pay'] = async (context) => {
      await context.step('charge', () => call('charge'));
      throw new BadRequestException();
    };
    expect((await test.post('/run/pay', 'k', { amount: 1 })).status).toBe(400);
    expect((await test.post('/run/pay', 'k', { amount: 2 })).status).toBe(422);
  });

  it('stores an error that the route accepts, of the handler and of a step', async () => {
    begin();
    scripts['pay'] = async (context) => {
      await context.step('charge', () => {
        call('charge');
        throw new HttpException({ reason: 'no funds' }, 402);
      });
    };
    const first = await test.post('/run/pay', 'k');
    const replay = await other.post('/run/pay', 'k');
    expect([first.status, replay.status]).toEqual([402, 402]);
    expect(replay.body).toEqual(first.body);
    expect(provider).toEqual(['charge']);
  });

  it('remembers the error of a step that the route accepts, for the next attempt', async () => {
    begin();
    let died = false;
    scripts['pay'] = async (context) => {
      const charge = context.step('charge', () => {
        call('charge');
        throw new HttpException({ reason: 'no funds' }, 402);
      });
      await charge.catch((error: HttpException) => seen.push(error.getStatus(), error.getResponse()));
      if (!died) {
        died = true;
        throw new Error('afterwards');
      }
      return 'done';
    };
    expect((await test.post('/run/pay', 'k')).status).toBe(500);
    expect((await test.post('/run/pay', 'k')).status).toBe(201);
    expect(provider).toEqual(['charge']);
    expect(seen).toEqual([402, { reason: 'no funds' }, 402, { reason: 'no funds' }]);
  });

  it('gives a step’s result as JSON makes it, on the first attempt and on later ones', async () => {
    begin();
    let failures = 1;
    const at = new Date(0);
    scripts['pay'] = async (context) => {
      const [object, nothing, text] = [
        await context.step('object', () => ({ at, gone: undefined, nul: 'a\0b', half: '\ud800', list: [1, null] })),
        await context.step('nothing', () => undefined),
        await context.step('text', () => 'ünï'),
      ];
      seen.push([object, nothing, text]);
      if (failures-- > 0) throw new Error('once more');
      return 'done';
    };
    expect((await test.post('/run/pay', 'k')).status).toBe(500);
    expect((await test.post('/run/pay', 'k')).status).toBe(201);
    const expected = [{ at: at.toISOString(), nul: 'a\0b', half: '\ud800', list: [1, null] }, undefined, 'ünï'];
    expect(seen).toEqual([expected, expected]);
  });

  it('refuses what cannot be resumed', async () => {
    begin();
    scripts['wrong'] = async (context) => {
      const errors = async (work: () => Promise<unknown>): Promise<void> => {
        await work().catch((error: unknown) => seen.push(error));
      };
      await context.step('a', () => 1);
      await errors(() => context.step('a', () => 2));
      await errors(() => context.step('', () => 2));
      await errors(() => context.step('x'.repeat(256), () => 2));
      await errors(() => context.step('outer', () => context.step('inner', () => 1)));
      await errors(() => context.step('bigint', () => 1n));
      await errors(() => context.step('large', () => 'x'.repeat(1024 * 1024)));
      return 'done';
    };
    expect((await test.post('/run/wrong', 'k')).status).toBe(201);
    expect(seen.map((error) => error instanceof DurableStepError)).toEqual(Array(6).fill(true));
    expect(seen.map(String)).toEqual([
      expect.stringContaining('Two steps are named "a"'),
      expect.stringContaining('1 to 255 characters'),
      expect.stringContaining('1 to 255 characters'),
      expect.stringContaining('"inner" is begun inside of step "outer"'),
      expect.stringContaining('step "bigint" cannot be stored as JSON'),
      expect.stringContaining('step "large" takes 1048591 bytes'),
    ]);
  });

  it('finds out that the order of steps has changed', async () => {
    begin();
    let names = ['a', 'b'];
    scripts['deployed'] = async (context) => {
      for (const name of names) await context.step(name, () => call(name));
      throw new Error('down');
    };
    expect((await test.post('/run/deployed', 'k')).status).toBe(500);
    for (const changed of [
      ['b', 'a'],
      ['a', 'new', 'b'],
      ['new', 'a', 'b'],
    ]) {
      names = changed;
      const logs = [test, other].map((instance) => instance.logs); // the last one to start has the process' logger
      logs.forEach((lines) => (lines.length = 0));
      expect((await test.post('/run/deployed', 'k')).status).toBe(500);
      expect(logs.flat().join()).toContain('The order of steps has changed');
    }
    expect(provider).toEqual(['a', 'b']);
    names = ['a', 'b', 'c'];
    await test.post('/run/deployed', 'k');
    expect(provider).toEqual(['a', 'b', 'c']);
  });

  it('runs steps side by side, in the order they begin', async () => {
    begin();
    let failures = 1;
    scripts['parallel'] = async (context) => {
      const results = await Promise.all(['a', 'b', 'c'].map((name) => context.step(name, () => call(name))));
      if (failures-- > 0) throw new Error('once more');
      return results;
    };
    expect((await test.post('/run/parallel', 'k')).status).toBe(500);
    expect(JSON.parse((await test.post('/run/parallel', 'k')).body.toString())).toHaveLength(3);
    expect(provider).toEqual(['a', 'b', 'c']);
  });

  it('commits a transaction step and its memory together', async () => {
    begin();
    let failures = 1;
    scripts['order'] = async (context) => {
      const id = await context.transaction('write', async (manager) => {
        const saved = await manager.save(Effect, { label: 'by the manager' });
        await test.dataSource.getRepository(Effect).save({ label: 'by a repository' });
        return saved.id;
      });
      if (failures-- > 0) throw new Error('once more');
      return id;
    };
    expect((await test.post('/run/order', 'k')).status).toBe(500);
    const second = await test.post('/run/order', 'k');
    expect(second.status).toBe(201);
    expect(await effects()).toEqual(['by the manager', 'by a repository']);
  });

  it('undoes a transaction step that fails, and runs it again', async () => {
    begin();
    let failures = 1;
    scripts['order'] = async (context) =>
      context.transaction('write', async (manager) => {
        await manager.save(Effect, { label: `try ${failures}` });
        if (failures-- > 0) throw new Error('once more');
        return 'written';
      });
    expect((await test.post('/run/order', 'k')).status).toBe(500);
    expect(await effects()).toEqual([]);
    expect((await test.post('/run/order', 'k')).status).toBe(201);
    expect(await effects()).toEqual(['try 0']);
  });

  it('runs a transaction step again after a serialization failure, longer than its lease', async () => {
    begin();
    let tries = 0;
    scripts['strict'] = async (context) =>
      context.transaction('sum', async (manager) => {
        tries++;
        const before = await manager.count(Effect);
        if (tries === 1) {
          await queryOn(test.databaseUrl, `insert into effects (label) values ('concurrent')`);
          await manager.query('select pg_sleep($1)', [(SHORT_LEASE_MS * 1.5) / 1_000]);
          await queryOn(test.databaseUrl, `select count(*) from effects`);
        }
        await manager.save(Effect, { label: `sum ${before}` });
        if (tries === 1) throw Object.assign(new Error('conflict'), { driverError: serializationFailure() });
        return before;
      });
    const answer = await test.post('/strict/strict', 'k');
    expect([answer.status, answer.body.toString()]).toEqual([201, '1']);
    expect(await effects()).toEqual(['concurrent', 'sum 1']);
  });

  const serializationFailure = (): Error => Object.assign(new Error('could not serialize'), { code: '40001' });

  it('takes over as the next attempt when a process has died, with its finished steps', async () => {
    begin();
    const [entered, never] = [deferred(), deferred<string>()];
    scripts['pay'] = async (context) => {
      const charge = await context.step('charge', () => call('charge'));
      if (context.attempt === 1) {
        entered.resolve();
        await never.promise;
      }
      const after = await context.step('after', () => call('after')).catch((error: unknown) => seen.push(error));
      return { charge, after, attempt: context.attempt };
    };
    const first = test.post('/run/pay', 'k');
    await entered.promise;
    // The holder is alive, but cut off from the table: neither it nor its renewals know.
    await queryOn(
      test.databaseUrl,
      `update idempotency_keys set claim_id = gen_random_uuid(), lease_expires_at = clock_timestamp() where key = 'k'`,
    );
    const second = await other.post('/run/pay', 'k');
    expect([second.status, JSON.parse(second.body.toString())]).toEqual([
      201,
      { charge: 'charge #1', after: 'after #2', attempt: 2 },
    ]);
    never.resolve('woken up');
    const late = await first;
    expect(late.body).toEqual(second.body);
    expect(headerOf(late, 'idempotency-replayed')).toBe('true');
    expect(provider.filter((name) => name === 'charge')).toEqual(['charge']);
  });

  it('tells a former holder so: by its signal, its steps and its renewals', async () => {
    begin();
    const [entered, gate] = [deferred(), deferred()];
    scripts['pay'] = async (context) => {
      entered.resolve();
      await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
      seen.push(context.signal.reason);
      await context.step('charge', () => call('charge')).catch((error: unknown) => seen.push(error));
      await gate.promise;
      return 'too late';
    };
    const first = test.post('/short/pay', 'k');
    await entered.promise;
    await queryOn(test.databaseUrl, `update idempotency_keys set claim_id = gen_random_uuid() where key = 'k'`);
    await waitFor(() => seen.length === 2, { what: 'the holder to be told', timeoutMs: 10_000 });
    expect(seen.map((error) => error instanceof IdempotencyLeaseLostException)).toEqual([true, true]);
    gate.resolve();
    expect((await first).status).toBe(409);
    expect(provider).toEqual([]);
  });

  it('answers with the problem when the handler lets it through', async () => {
    begin();
    const entered = deferred();
    scripts['pay'] = async (context) => {
      entered.resolve();
      await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
      return context.step('charge', () => call('charge'));
    };
    const first = test.post('/run/pay', 'k');
    await entered.promise;
    await queryOn(test.databaseUrl, `update idempotency_keys set claim_id = gen_random_uuid() where key = 'k'`);
    const answer = await first;
    expect([answer.status, headerOf(answer, 'content-type'), headerOf(answer, 'retry-after')]).toEqual([
      409,
      'application/problem+json; charset=utf-8',
      '1',
    ]);
    expect(JSON.parse(answer.body.toString()).type).toBe('urn:nestjs-idempotency:lease-lost');
  });

  it('answers 503 when the connection of a transaction step breaks, and goes on in a retry', async () => {
    begin();
    let breaks = 1;
    scripts['order'] = async (context) => {
      await context.step('charge', () => call('charge'));
      return context.transaction('write', async (manager) => {
        if (breaks-- > 0) {
          const ended = once((await manager.queryRunner!.connect()) as EventEmitter, 'end');
          const [session] = (await manager.query('select pg_backend_pid() as pid')) as { pid: number }[];
          await queryOn(test.databaseUrl, 'select pg_terminate_backend($1)', [session!.pid]);
          await ended; // it is noticed while nothing is asked of it
        }
        await manager.save(Effect, { label: 'written' });
        return 'done';
      });
    };
    const first = await test.post('/run/order', 'k');
    expect([first.status, headerOf(first, 'content-type'), headerOf(first, 'retry-after')]).toEqual([
      503,
      'application/problem+json; charset=utf-8',
      '2',
    ]);
    expect((await test.post('/run/order', 'k')).status).toBe(201);
    expect([provider, await effects()]).toEqual([['charge'], ['written']]);
  });

  it('of two takers lets one go on', async () => {
    begin();
    const entered = deferred();
    const held: Deferred<void>[] = [];
    scripts['pay'] = async (context) => {
      const gate = deferred();
      held.push(gate);
      entered.resolve();
      await gate.promise;
      return { attempt: context.attempt };
    };
    const first = test.post('/run/pay', 'k');
    await entered.promise;
    await queryOn(
      test.databaseUrl,
      `update idempotency_keys set claim_id = gen_random_uuid(), lease_expires_at = clock_timestamp() where key = 'k'`,
    );
    const takers = Array.from({ length: 10 }, () => other.post('/run/pay', 'k'));
    await waitFor(() => held.length > 1, { what: 'a taker', timeoutMs: 10_000 });
    const refused = await Promise.any(takers);
    expect(refused.status).toBe(409);
    held[1]!.resolve();
    const answers = await Promise.all(takers);
    const own = answers.filter(
      (answer) => answer.status === 201 && headerOf(answer, 'idempotency-replayed') === undefined,
    );
    expect(own).toHaveLength(1);
    expect(held).toHaveLength(2);
    held[0]!.resolve();
    expect(JSON.parse((await first).body.toString())).toEqual({ attempt: 2 });
  });

  describe("with onInterrupted: 'fail'", () => {
    /** A handler that has begun and never ended. */
    async function interrupted(key: string): Promise<void> {
      begin();
      const never = deferred();
      scripts['charge'] = async (context) => {
        await context.step('charge', () => call('charge'));
        if (context.attempt === 1) await never.promise;
        return { attempt: context.attempt };
      };
      expect((await test.post('/fail/charge', key)).status).toBe(503); // its time is up
      expect((await test.post('/fail/charge', key)).status).toBe(409);
      await expireLease(key);
    }

    const problemOf = ({ status, body }: RawResponse) => [status, JSON.parse(body.toString()).type];
    const unknown = [409, 'urn:nestjs-idempotency:outcome-unknown'];

    it('answers 409 with a problem of its own, for as long as nobody decides', async () => {
      await interrupted('k');
      for (const instance of [test, other]) {
        const answer = await instance.post('/fail/charge', 'k');
        expect(problemOf(answer)).toEqual(unknown);
        expect(headerOf(answer, 'retry-after')).toBeUndefined();
      }
      expect(await service.find('k')).toMatchObject({ state: 'interrupted', attempt: 1, steps: ['charge'] });
      expect((await service.find('k'))!.expiresAt).toBeUndefined();
      expect(await service.purge()).toBe(0);
      expect(provider).toEqual(['charge']);
    });

    it('lets an operator resolve it', async () => {
      await interrupted('k');
      expect(await service.resolve('k', { status: 200, headers: { 'X-By': 'hand' }, body: { id: 7 } })).toBe(true);
      expect(await service.resolve('k', { status: 200 })).toBe(false);
      const answer = await other.post('/fail/charge', 'k');
      expect([answer.status, headerOf(answer, 'x-by'), answer.body.toString()]).toEqual([200, 'hand', '{"id":7}']);
      expect(headerOf(answer, 'content-type')).toBe('application/json; charset=utf-8');
      expect(headerOf(answer, 'idempotency-replayed')).toBe('true');
      expect(await steps()).toEqual([]);
      await expect(service.resolve('k', { status: 500 })).rejects.toThrow('200 to 499');
    });

    it('lets an operator release it', async () => {
      await interrupted('k');
      expect(await service.release('k')).toBe(true);
      const answer = await other.post('/fail/charge', 'k');
      expect([answer.status, answer.body.toString()]).toEqual([201, '{"attempt":2}']);
      expect(provider).toEqual(['charge']);
      expect(await service.release('k')).toBe(false);
    });

    it('neither resolves nor releases what is running', async () => {
      begin();
      const gate = deferred();
      scripts['slow'] = async () => {
        await gate.promise;
        return 'done';
      };
      const running = test.post('/run/slow', 'k');
      await untilRunning('k');
      expect(await service.release('k')).toBe(false);
      expect(await service.resolve('k', { status: 200 })).toBe(false);
      gate.resolve();
      expect((await running).status).toBe(201);
    });
  });

  it('gives a stable key to hand downstream, another for each step, key and scope', async () => {
    begin();
    let failures = 1;
    scripts['keys'] = (context) => {
      seen.push(context.downstreamKey('charge'));
      if (failures-- > 0) throw new Error('once more');
      return [context.downstreamKey('charge'), context.downstreamKey('refund')];
    };
    await test.post('/run/keys', 'k');
    const [charge, refund] = JSON.parse((await other.post('/run/keys', 'k')).body.toString()) as string[];
    const [elsewhere] = JSON.parse((await other.post('/run/keys', 'other')).body.toString()) as string[];
    expect(seen.slice(0, 2)).toEqual([charge, charge]);
    expect(charge).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(new Set([charge, refund, elsewhere]).size).toBe(3);
  });

  it('runs afterCommit once the response is recorded, never after a failure', async () => {
    begin();
    scripts['pay'] = async (context, { fails }) => {
      context.afterCommit(async () => seen.push((await service.find(context.key))?.state));
      if (fails) throw new Error('no');
      return 'done';
    };
    expect((await test.post('/run/pay', 'fails', { fails: true })).status).toBe(500);
    expect((await test.post('/run/pay', 'k')).status).toBe(201);
    await waitFor(() => seen.length > 0, { what: 'afterCommit', timeoutMs: 10_000 });
    expect(seen).toEqual(['completed']);
  });

  it('and transaction mode do not run the same key side by side', async () => {
    begin();
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return 'done';
    };
    const entered = deferred();
    scripts['enter'] = async () => {
      entered.resolve();
      await gate.promise;
      return 'done';
    };
    const plain = test.post('/plain/enter', 'plain');
    await entered.promise;
    expect((await other.post('/run/slow', 'plain')).status).toBe(409);
    const leased = test.post('/run/slow', 'leased');
    await untilRunning('leased');
    expect((await other.post('/plain/slow', 'leased')).status).toBe(422); // another path
    gate.resolve();
    expect([(await plain).status, (await leased).status]).toEqual([201, 201]);
  });

  it('is what steps ask for: transaction mode says so', async () => {
    begin();
    scripts['steps'] = async (context) => {
      await context.step('a', () => 1).catch((error: unknown) => seen.push(error));
      await context.transaction('b', () => 1).catch((error: unknown) => seen.push(error));
      return context.downstreamKey('a').length;
    };
    expect((await test.post('/plain/steps', 'k')).status).toBe(201);
    expect(seen.map(String)).toEqual([
      expect.stringContaining("Set `mode: 'lease'`"),
      expect.stringContaining("Set `mode: 'lease'`"),
    ]);
  });

  it('purges expired operations with their steps', async () => {
    begin();
    scripts['pay'] = async (context) => {
      await context.step('charge', () => call('charge'));
      throw new Error('down');
    };
    expect((await test.post('/run/pay', 'k')).status).toBe(500);
    expect((await test.post('/run/pay', 'alive')).status).toBe(500);
    await queryOn(
      test.databaseUrl,
      `update idempotency_keys set created_at = created_at - interval '2 days', expires_at = clock_timestamp() where key = 'k'`,
    );
    expect(await service.purge()).toBe(1);
    expect((await steps()).map((step) => step['key'])).toEqual(['alive']);
  });

  it('begins anew where an unfinished operation has expired', async () => {
    begin();
    let failures = 1;
    scripts['pay'] = async (context) => {
      await context.step('charge', () => call('charge'));
      if (failures-- > 0) throw new Error('down');
      return { attempt: context.attempt };
    };
    expect((await test.post('/run/pay', 'k')).status).toBe(500);
    await queryOn(
      test.databaseUrl,
      `update idempotency_keys set created_at = created_at - interval '2 days', expires_at = clock_timestamp() where key = 'k'`,
    );
    const answer = await test.post('/run/pay', 'k', { another: 'payload' });
    expect([answer.status, answer.body.toString()]).toEqual([201, '{"attempt":1}']);
    expect(provider).toEqual(['charge', 'charge']);
  });

  it('finishes what runs before the application ends', async () => {
    begin();
    const instance: TestApp & { app: INestApplication } = await createTestApp({
      adapter,
      controllers: [LeaseController],
      databaseUrl: test.databaseUrl,
    });
    const gate = deferred();
    scripts['slow'] = async () => {
      await gate.promise;
      return 'done';
    };
    const running = instance.post('/run/slow', 'k');
    await untilRunning('k');
    const closed = instance.close();
    gate.resolve();
    expect((await running).status).toBe(201);
    await closed;
    expect((await service.find('k'))!.state).toBe('completed');
  });
});
