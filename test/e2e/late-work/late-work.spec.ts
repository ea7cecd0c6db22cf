import { randomUUID } from 'node:crypto';
import type { Server } from 'node:net';
import { ConflictException } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { deferred } from '../../../src/util/deferred.js';
import { REFUSED_FOR_MS } from '../../../src/protocol/constants.js';
import { IdempotencyService, TransactionRolledBackError } from '../../../src/index.js';
import { clock, warned } from '../../../src/util/late-work.js';
import type { RawResponse } from '../../support/raw-http.js';
import { PLACES, type Script, script, ScriptedController } from '../../support/scripted-routes.js';
import { Effect } from '../../support/effect.entity.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { LazyClient, LockQueue, startEcho } from './shared-things.js';

const { now } = clock;

function letTimePass(): void {
  const { now: before } = clock;
  clock.now = () => before() + REFUSED_FOR_MS;
}

describe.each(ADAPTERS)('what a request has made and left behind, on %s', (adapter) => {
  let test: TestApp;
  let echo: Server;
  let client: LazyClient;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [ScriptedController], instances: 1 });
    echo = await startEcho();
  });

  beforeEach(async () => {
    await test.dataSource.query('truncate effects, idempotency_keys');
    test.logs.length = 0;
    warned.clear();
    client = new LazyClient(echo, (label) => add(label));
  });

  afterEach(() => {
    client.close();
    clock.now = now;
  });

  afterAll(async () => {
    echo.close();
    await test.close();
  });

  const add = async (label: string): Promise<void> => {
    await test.dataSource.getRepository(Effect).insert({ label });
  };
  const run = (place: string, work: Script): Promise<RawResponse> =>
    test.post(`/${place}/${script(work)}`, randomUUID());
  const fate = (work: Promise<unknown>): Promise<unknown> =>
    work.then(
      () => 'done',
      (error: unknown) => error,
    );
  const warnings = (): string[] => test.logs.filter((line) => line.includes('it comes on behalf of'));

  describe.each(PLACES)('in a %s that failed', (place) => {
    const fail = async (before: () => Promise<unknown>): Promise<void> => {
      const { status } = await run(place, async () => {
        await before();
        throw new ConflictException();
      });
      expect(status).toBe(409);
      expect(await test.effects()).toEqual([]);
    };

    it('serves plain routes after a bounded time, for good', async () => {
      await fail(() => client.ask('undone'));
      let met: unknown;
      await run('plain', async () => void (met = await fate(client.ask('refused'))));
      expect(met).toBeInstanceOf(TransactionRolledBackError);
      letTimePass();
      const answers = [await run('plain', () => client.ask('a')), await run('plain', () => client.ask('b'))];
      expect(answers.map(({ status }) => status)).toEqual([201, 201]);
      expect(await test.effects()).toEqual(['a', 'b']);
    });

    it('serves requests with a key after that time, beside their transactions', async () => {
      await fail(() => client.ask('undone'));
      letTimePass();
      expect((await run(place, () => client.ask('a'))).status).toBe(201);
      expect(await test.effects()).toEqual(['a']);
    });

    it('is refused until then, however often it tries', async () => {
      const goOn = deferred();
      let late!: Promise<unknown>;
      await fail(async () => {
        late = goOn.promise.then(() => Promise.all(['a', 'b', 'c'].map((label) => fate(add(label)))));
      });
      goOn.resolve();
      expect(await late).toEqual(Array(3).fill(expect.any(TransactionRolledBackError)));
      expect(await test.effects()).toEqual([]);
    });

    it('is said once for each place in the code: what was refused, for whom, and the remedy', async () => {
      await fail(() => client.ask('undone'));
      for (const label of ['one', 'two', 'three']) {
        await fate(client.ask(label));
      }
      expect(warnings()).toEqual([
        expect.stringMatching(/late-work\.spec\.ts.* was refused: .*POST \/.* ended \d+\.\d s ago/),
      ]);
      expect(warnings()[0]).toContain('AsyncResource.bind()');
      expect(warnings()[0]).toContain('IdempotencyService.outsideTransaction()');
      letTimePass();
      await client.ask('four');
      await client.ask('five');
      expect(warnings()).toHaveLength(2);
      expect(warnings()[1]).toMatch(
        /^.*insert into "effects".*late-work\.spec\.ts.* was run on an ordinary connection/i,
      );
    });

    it('has its callbacks after COMMIT run at once when its time is over', async () => {
      const service = test.app.get(IdempotencyService);
      const told: string[] = [];
      client = new LazyClient(echo, async (line) => service.afterCommit(() => void told.push(line)));
      await fail(() => client.ask('undone'));
      letTimePass();
      await client.ask('told');
      expect(told).toEqual(['told']);
    });

    it('does not use a transaction that was begun in it', async () => {
      const goOn = deferred();
      let late!: Promise<unknown>;
      await fail(async () => {
        const runner = test.dataSource.createQueryRunner();
        await runner.startTransaction();
        late = goOn.promise.then(() => fate(runner.manager.insert(Effect, { label: 'late' })));
      });
      letTimePass();
      goOn.resolve();
      expect(await late).toBeInstanceOf(TransactionRolledBackError);
      expect(await test.effects()).toEqual([]);
    });

    it('uses an interval on ordinary connections then', async () => {
      let timer!: NodeJS.Timeout;
      const polled: unknown[] = [];
      await fail(async () => {
        timer = setInterval(() => void fate(test.dataSource.manager.count(Effect)).then((is) => polled.push(is)), 5);
      });
      await waitFor(() => polled.length > 0, { what: 'a poll that is refused' });
      expect(polled[0]).toBeInstanceOf(TransactionRolledBackError);
      letTimePass();
      await waitFor(() => polled.at(-1) === 'done', { what: 'a poll that is served' });
      clearInterval(timer);
    });
  });

  it.each(PLACES)('in a nested transaction of a %s that failed serves plain routes after that time', async (place) => {
    const { status } = await run(place, async (dataSource) => {
      const nested = dataSource.transaction(async () => {
        await client.ask('undone');
        throw new Error('of the nested transaction');
      });
      await nested.catch(() => undefined);
    });
    expect(status).toBe(201);
    expect(await fate(client.ask('refused'))).toBeInstanceOf(TransactionRolledBackError);
    letTimePass();
    await client.ask('a');
    expect(await test.effects()).toEqual(['a']);
  });

  it.each([...PLACES, 'lease'])('in a %s that has committed is said once, and served at once', async (place) => {
    expect((await run(place, () => client.ask('in time'))).status).toBe(201);
    expect(warnings()).toEqual([]);
    await client.ask('late');
    await client.ask('later');
    expect(await test.effects()).toEqual(['in time', 'late', 'later']);
    expect(warnings()).toHaveLength(1);
  });

  it('says nothing of a callback that was handed in for after COMMIT', async () => {
    const service = test.app.get(IdempotencyService);
    const told: unknown[] = [];
    const { status } = await run('transaction', () =>
      service.afterCommit(async () => void told.push(await fate(add('after')))),
    );
    expect(status).toBe(201);
    await waitFor(() => told.length > 0, { what: 'the callback' });
    expect(told).toEqual(['done']);
    expect(warnings()).toEqual([]);
  });

  it('serves what a handler in lease mode has left behind, and says whose it is', async () => {
    const { status } = await run('lease', async () => {
      await client.ask('kept');
      throw new ConflictException();
    });
    expect([status, warnings()]).toEqual([409, []]);
    await client.ask('of others');
    expect(warnings()).toEqual([
      expect.stringMatching(/insert into "effects".*late-work\.spec\.ts.*POST \/lease\/.* ended/i),
    ]);
    expect(await test.effects()).toEqual(['kept', 'of others']);
  });

  it('refuses what a handler does that was given up, for as long as it runs', async () => {
    const [goOn, tried, end] = [deferred(), deferred(), deferred()];
    let met: unknown;
    const { status } = await run('impatient', async () => {
      await client.ask('undone');
      await goOn.promise;
      met = await fate(add('late'));
      tried.resolve();
      await end.promise;
    });
    expect(status).toBe(503);
    letTimePass();
    letTimePass();
    goOn.resolve();
    await tried.promise;
    expect(met).toBeInstanceOf(TransactionRolledBackError);
    expect(await fate(client.ask('late, too'))).toBeInstanceOf(TransactionRolledBackError);
    end.resolve();
    expect(await fate(client.ask('late, three'))).toBeInstanceOf(TransactionRolledBackError);
    letTimePass();
    await client.ask('of others');
    expect(await test.effects()).toEqual(['of others']);
  });

  it('wakes the next in a queue, whose own work is told by the promise that it awaits', async () => {
    const queue = new LockQueue();
    const taken = deferred();
    const first = run('transaction', async () => {
      await new Promise<void>((go) => queue.take(go));
      taken.resolve();
      await waitFor(() => queue.length === 1, { what: 'the other request to wait' });
      queue.letGo();
      throw new ConflictException();
    });
    await taken.promise;
    const second = run('transaction', async () => {
      await new Promise<void>((go) => queue.take(go));
      await add('of the second');
      queue.letGo();
    });
    expect((await Promise.all([first, second])).map(({ status }) => status)).toEqual([409, 201]);
    expect(await test.effects()).toEqual(['of the second']);
  });
});
