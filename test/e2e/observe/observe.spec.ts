import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Logger } from '@nestjs/common';
import { type IdempotencyEvent, IdempotencyService, type ObservedEvent } from '../../../src/index.js';
import { KEYS_TABLE } from '../../../src/postgres/table-name.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import type { RawResponse } from '../../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp, type TestAppOptions } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { Gate, OrdersController } from './orders.controller.js';

describe.each(ADAPTERS)('a route in observe mode, on %s', (adapter) => {
  let database: TestDatabase;
  let observing: TestApp;
  let another: TestApp;
  let protecting: TestApp;
  let key: string;
  let keys = 0;
  const logged: string[] = [];
  const events: ObservedEvent[] = [];

  beforeAll(async () => {
    database = await createTestDatabase();
    const options: TestAppOptions = {
      adapter,
      databaseUrl: database.url,
      controllers: [OrdersController],
      shared: [Gate],
      instances: 1,
    };
    const onEvent = (event: IdempotencyEvent): void => void events.push(event as ObservedEvent);
    observing = await createTestApp({ ...options, idempotency: { mode: 'observe', onEvent } });
    another = await createTestApp({ ...options, idempotency: { mode: 'observe' } });
    protecting = await createTestApp(options);
    const collect = (message: unknown): void => void logged.push(String(message));
    Logger.overrideLogger({ log: collect, warn: collect, error: collect });
  });

  afterAll(async () => {
    for (const app of [observing, another, protecting]) {
      await app.close();
    }
    await database.drop();
  });

  beforeEach(() => {
    key = `${adapter}-${keys++}`;
  });

  afterEach(() => {
    logged.length = 0;
    events.length = 0;
  });

  const post = (path = '', label = key, app = observing): Promise<RawResponse> =>
    app.post(`/orders${path}`, key, { label });
  const effects = async (label = key): Promise<number> =>
    (await observing.effects()).filter((each) => each === label).length;
  /** It comes behind the answer. */
  const told = async (expected: RegExp): Promise<void> => {
    await waitFor(() => logged.some((line) => expected.test(line)), { what: `${expected}` }).catch((error: unknown) => {
      throw new Error(`It was told:\n${logged.join('\n')}`, { cause: error });
    });
  };
  const observed = async (): Promise<number> => {
    const [row] = await observing.dataSource.query(
      `select count(*)::int4 as count from ${KEYS_TABLE} where key = $1 and scope like 'nestjs-idempotency:observed:%'`,
      [key],
    );
    return row.count as number;
  };
  const recorded = (): Promise<boolean> =>
    waitFor(async () => (await observed()) === 1, { what: 'the key to be recorded' });

  it('lets a request and its retry run, and tells that the retry would have been replayed', async () => {
    const first = await post();
    await recorded();
    const retry = await post();
    await told(
      /^observe: a request to OrdersController\.create with key #[0-9a-f]{8} would have been answered by a replay of 201, and its handler not have run; it has run, and was answered by another body$/,
    );
    expect([first.status, retry.status]).toEqual([201, 201]);
    expect(await effects()).toBe(2);
    for (const { headerLines } of [first, retry]) {
      expect(headerLines.join('\n')).not.toMatch(/idempotency/i);
    }
    expect(logged).toHaveLength(1);
    expect(logged[0]).not.toContain(key);
  });

  it('tells that a key was used for another request', async () => {
    await post();
    await recorded();
    expect((await post('', `${key}-other`)).status).toBe(201);
    await told(/OrdersController\.create with key #\w{8} would have been answered 422: /);
    expect(await effects(`${key}-other`)).toBe(1);
  });

  it('tells of a key that is missing, where it is required, and of one that cannot be used', async () => {
    const send = (path: string, headers: [string, string][]) =>
      observing.request({
        method: 'POST',
        path,
        headers: [['Content-Type', 'application/json'], ...headers],
        body: JSON.stringify({ label: key }),
      });
    expect((await send('/orders/optional', [])).status).toBe(201);
    expect(logged).toEqual([]);
    expect((await send('/orders', [])).status).toBe(201);
    expect((await send('/orders', [['Idempotency-Key', '"']])).status).toBe(201);
    expect(logged).toEqual([
      expect.stringMatching(
        /^observe: a request to OrdersController\.create would have been answered 400: .*Idempotency-Key/,
      ),
      expect.stringMatching(/^observe: a request to OrdersController\.create would have been answered 400: /),
    ]);
    expect(await effects()).toBe(3);
  });

  it.each([
    ['', /would have been answered 409: a request with its key was in flight$/],
    ['/waiting', /would have waited for up to 5000 ms: a request with its key was in flight$/],
  ])('tells of a request that another one with its key was in flight beside, at orders%s', async (path, expected) => {
    const gate = observing.app.get(Gate);
    gate.close(key);
    const first = post(path);
    await waitFor(() => gate.arrived.includes(key), { what: 'the handler' });
    const second = post(path);
    await told(expected);
    gate.open(key);
    expect([(await first).status, (await second).status]).toEqual([201, 201]);
    await recorded();
    expect(logged).toHaveLength(1);
  });

  it('tells of one in another process when both have ended', async () => {
    const gate = observing.app.get(Gate);
    gate.close(key);
    const first = post();
    await waitFor(() => gate.arrived.includes(key), { what: 'the handler' });
    await post('', key, another);
    await recorded();
    gate.open(key);
    expect((await first).status).toBe(201);
    await told(/would have been answered 409: a request with its key was in flight$/);
  });

  it('joins no transaction: what a handler has written before it failed stays, and its key is as good as new', async () => {
    expect((await post('/failing')).status).toBe(500);
    expect((await post('/failing')).status).toBe(500);
    expect(await effects()).toBe(2);
    expect(await observed()).toBe(0);
    expect(logged.filter((line) => line.startsWith('observe'))).toEqual([]);
  });

  it('takes an error for an outcome where `storeErrors` does', async () => {
    expect((await post('/failing?status=409')).status).toBe(409);
    await recorded();
    await post('/failing?status=409');
    await told(/failing with key #\w{8} would have been answered by a replay of 409, and its handler not have run$/);
  });

  it('tells of a response that would not have been kept', async () => {
    expect((await post('/large')).status).toBe(201);
    await recorded();
    expect((await post('/large')).status).toBe(201);
    await told(/large with key #\w{8} would have been answered 409: its response was too large to be kept/);
  });

  describe('publishes one event for each request', () => {
    /** They come behind the answer. */
    const outcomes = async (count: number): Promise<ObservedEvent['outcome'][]> => {
      await waitFor(() => events.length >= count, { what: `${count} events` });
      return events.map(({ outcome }) => outcome);
    };

    it('of what another mode would have done, with hashes in place of scope and key', async () => {
      const first = await post();
      expect(await outcomes(1)).toEqual(['recorded']);
      await post();
      expect(await outcomes(2)).toEqual(['recorded', 'replayed']);
      await post('', `${key}-other`);
      expect(await outcomes(3)).toEqual(['recorded', 'replayed', 'mismatch']);
      const HASH = expect.stringMatching(/^[0-9a-f]{32}$/);
      const source = {
        type: 'observed',
        method: 'POST',
        route: '/orders',
        mode: 'observe',
        scopeHash: HASH,
        keyHash: HASH,
      };
      expect(events).toEqual([
        { ...source, outcome: 'recorded', status: first.status },
        { ...source, outcome: 'replayed', status: first.status, isSame: false },
        { ...source, outcome: 'mismatch', status: first.status },
      ]);
      expect(JSON.stringify(events)).not.toContain(key);
    });

    it('whose handler fails, whose error would be stored, or whose response not kept', async () => {
      await post('/failing');
      expect(await outcomes(1)).toEqual(['rolled-back']);
      await post('/failing?status=409');
      expect(await outcomes(2)).toEqual(['rolled-back', 'recorded']);
      await post('/failing?status=409');
      expect(await outcomes(3)).toEqual(['rolled-back', 'recorded', 'replayed']);
      expect(events[2]).toMatchObject({ status: 409, isSame: true });
      key += '-large';
      await post('/large');
      await outcomes(4);
      await post('/large');
      expect((await outcomes(5)).slice(3)).toEqual(['recorded', 'not-kept']);
    });

    it('that would be refused, or would run without protection', async () => {
      const send = (path: string, headers: [string, string][]) =>
        observing.request({
          method: 'POST',
          path,
          headers: [['Content-Type', 'application/json'], ...headers],
          body: JSON.stringify({ label: key }),
        });
      await send('/orders', []);
      await send('/orders', [['Idempotency-Key', '"']]);
      await send('/orders/optional', []);
      expect(await outcomes(3)).toEqual(['missing', 'malformed', 'unprotected']);
      expect(events.some((event) => 'keyHash' in event)).toBe(false);
    });

    it('that runs beside another one', async () => {
      const gate = observing.app.get(Gate);
      gate.close(key);
      const first = post();
      await waitFor(() => gate.arrived.includes(key), { what: 'the handler' });
      const second = post();
      expect(await outcomes(1)).toEqual(['in-flight']);
      gate.open(key);
      await Promise.all([first, second]);
      await recorded();
      expect(await outcomes(2)).toEqual(['in-flight', 'recorded']);
    });

    it('that cannot be compared', async () => {
      await observing.dataSource.query(`alter table ${KEYS_TABLE} rename to away`);
      try {
        await post();
        expect(await outcomes(1)).toEqual(['store-unavailable']);
      } finally {
        await observing.dataSource.query(`alter table away rename to ${KEYS_TABLE}`);
      }
    });
  });

  it('holds no response back', async () => {
    const gate = observing.app.get(Gate);
    gate.close(key);
    const response = await fetch(`http://127.0.0.1:${observing.port}/orders/streamed`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
      body: JSON.stringify({ label: key }),
    });
    const reader = response.body!.getReader();
    expect(Buffer.from((await reader.read()).value!).toString()).toBe('begun ');
    gate.open(key);
    expect(Buffer.from((await reader.read()).value!).toString()).toBe('done');
    await recorded();
    await post('/streamed');
    await told(/would have been answered by a replay of 201, and its handler not have run$/);
  });

  it('gives the handler what it would have, steps included', async () => {
    const first = JSON.parse((await post('/context')).body.toString());
    expect(first).toEqual({ key, scope: '', attempt: 1, chosen: 'by a step', downstream: expect.any(String) });
    expect(JSON.parse((await post('/context')).body.toString())).toEqual(first);
  });

  describe('a key that it has met', () => {
    it('is a new one to transaction mode, which never replays what was only observed', async () => {
      const first = await post();
      await recorded();
      expect(await protecting.app.get(IdempotencyService).find(key)).toBeUndefined();

      const run = await post('', key, protecting);
      expect(run.headerLines).not.toContain('Idempotency-Replayed: true');
      expect(run.body).not.toEqual(first.body);
      expect(await effects()).toBe(2);
      expect((await post('', `${key}-other`, protecting)).status).toBe(422);

      const replay = await post('', key, protecting);
      expect(replay.headerLines).toContain('Idempotency-Replayed: true');
      expect(replay.body).toEqual(run.body);
    });

    it('has no body in the table', async () => {
      await post();
      await recorded();
      const rows = await observing.dataSource.query(
        `select response_body, response_headers from ${KEYS_TABLE} where key = $1`,
        [key],
      );
      expect(rows).toEqual([
        { response_body: null, response_headers: [['sha256', expect.stringMatching(/^[0-9a-f]{64}$/)]] },
      ]);
    });

    it('is forgotten when it expires, and purged', async () => {
      await post();
      await recorded();
      await observing.dataSource.query(
        `update ${KEYS_TABLE} set created_at = '2020-01-01', expires_at = '2020-01-02' where key = $1`,
        [key],
      );
      await post('', `${key}-other`);
      await waitFor(
        async () => {
          const [row] = await observing.dataSource.query(
            `select expires_at > clock_timestamp() as live from ${KEYS_TABLE} where key = $1`,
            [key],
          );
          return row.live as boolean;
        },
        { what: 'the key to be recorded anew' },
      );
      expect(logged).toEqual([]);
      await observing.dataSource.query(
        `update ${KEYS_TABLE} set created_at = '2020-01-01', expires_at = '2020-01-02' where key = $1`,
        [key],
      );
      await observing.app.get(IdempotencyService).purge();
      expect(await observed()).toBe(0);
    });
  });

  it('is compared with what a protecting mode has recorded, when a route goes back to it', async () => {
    await post('', key, protecting);
    expect((await post()).headerLines).not.toContain('Idempotency-Replayed: true');
    await told(
      /would have been answered by a replay of 201, and its handler not have run; it has run, and was answered by another body$/,
    );
    expect(await observed()).toBe(0);
  });

  it('answers all the same where nothing can be recorded, and says so', async () => {
    await observing.dataSource.query(`alter table ${KEYS_TABLE} rename to away`);
    try {
      expect((await post()).status).toBe(201);
      await told(/^observe: a request to OrdersController\.create could not be compared: /);
    } finally {
      await observing.dataSource.query(`alter table away rename to ${KEYS_TABLE}`);
    }
    expect(await effects()).toBe(1);
  });

  it('has what it observes recorded before it shuts down', async () => {
    const app = await createTestApp({
      adapter,
      databaseUrl: database.url,
      controllers: [OrdersController],
      shared: [Gate],
      instances: 1,
      idempotency: { mode: 'observe' },
    });
    await post('', key, app);
    await app.close();
    expect(await observed()).toBe(1);
  });
});
