import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { IDEMPOTENCY_CHANNEL, type IdempotencyEvent, IdempotencyService } from '../../../src/index.js';
import { queryOn } from '../../support/empty-database.js';
import { programOf } from '../../support/program.js';
import { ADAPTERS, createTestApp, type TestApp, type TestAppOptions } from '../../support/test-app.js';
import { closeGate, EventsController, gate, SECRET } from './events.controller.js';

const HASH = expect.stringMatching(/^[0-9a-f]{32}$/);
const MS = expect.any(Number);
const KEY = 'key-of-the-caller';
const SCOPE = 'scope-of-the-caller';

it('hurt no request when a subscriber of the channel throws: that is an uncaught exception, by the rule of Node', async () => {
  const program = `
    import { subscribe } from 'node:diagnostics_channel';
    import { EventPublisher } from ${JSON.stringify(pathToFileURL(programOf('src/requests/event-publisher.ts')).href)};
    process.on('uncaughtException', ({ message }) => console.log('uncaught: ' + message));
    subscribe('${IDEMPOTENCY_CHANNEL}', () => { throw new Error('of the subscriber'); });
    const told = [];
    new EventPublisher((event) => told.push(event.type), undefined, (work) => work()).publish({ type: 'recorded' });
    console.log('published, and told ' + told);`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program]);
  expect(stdout).toBe('published, and told recorded\nuncaught: of the subscriber\n');
});

describe.each(ADAPTERS)('events on %s', (adapter) => {
  let test: TestApp;
  /** Another instance, since a duplicate beside its request never takes over. */
  let other: TestApp;
  const told: IdempotencyEvent[] = [];
  const published: IdempotencyEvent[] = [];
  const subscriber = (message: unknown): void => void published.push(message as IdempotencyEvent);
  let onEvent: (event: IdempotencyEvent) => unknown;

  beforeAll(async () => {
    const options: TestAppOptions = {
      adapter,
      controllers: [EventsController],
      idempotency: {
        scope: () => SCOPE,
        hashSecret: 'sixteen characters',
        onEvent: (event) => onEvent(event),
        purge: false,
      },
    };
    test = await createTestApp(options);
    other = await createTestApp({ ...options, databaseUrl: test.databaseUrl });
  });

  beforeEach(() => {
    closeGate();
    subscribe(IDEMPOTENCY_CHANNEL, subscriber);
    onEvent = (event) => void told.push(event);
  });

  afterEach(async () => {
    unsubscribe(IDEMPOTENCY_CHANNEL, subscriber);
    told.length = 0;
    published.length = 0;
    test.logs.length = other.logs.length = 0;
    await queryOn(test.databaseUrl, 'truncate idempotency_keys, idempotency_steps, effects');
  });

  afterAll(async () => {
    await other.close();
    await test.close();
  });

  const pay = (body: object = {}, key = KEY) => test.post('/shops/7/payments', key, body);
  /** NestJS has one logger a process. */
  const logs = () => [...test.logs, ...other.logs];
  const types = () => told.map(({ type }) => type);

  it('tell of a request that was recorded, and of its replay, what an operator needs', async () => {
    const first = await pay();
    expect((await pay()).body).toEqual(first.body);
    const source = {
      method: 'POST',
      route: '/shops/:shop/payments',
      mode: 'transaction',
      scopeHash: HASH,
      keyHash: HASH,
    };
    const response = { status: 201, bodyBytes: first.body.length };
    expect(told).toEqual([
      { type: 'claimed', ...source, attempt: 1, claimMs: MS },
      {
        type: 'recorded',
        ...source,
        attempt: 1,
        claimMs: MS,
        handlerMs: MS,
        recordMs: MS,
        ...response,
        bodyKept: true,
      },
      { type: 'replayed', ...source, attempt: 0, claimMs: MS, ...response },
    ]);
    expect(published).toEqual(told);
    const hashes = told.map((event) => [
      (event as { scopeHash: string }).scopeHash,
      (event as { keyHash: string }).keyHash,
    ]);
    expect(new Set(hashes.map(String)).size).toBe(1);
  });

  it('never hold a key, a scope or anything of a body', async () => {
    await pay();
    await pay();
    await pay({ another: 'payload' });
    await test.post('/shops/7/lease', 'key-of-a-lease', {});
    expect(types()).toEqual(['claimed', 'recorded', 'replayed', 'mismatch', 'claimed', 'step-run', 'recorded']);
    const text = JSON.stringify([told, published]);
    for (const secret of [KEY, 'key-of-a-lease', SCOPE, SECRET, 'payload']) {
      expect(text).not.toContain(secret);
    }
  });

  it.each([
    ['error-stored', { what: 'conflict' }, ['claimed', 'error-stored'], { status: 409, bodyKept: true }],
    ['rolled-back', { what: 'fail' }, ['claimed', 'rolled-back'], { status: 500 }],
    ['run-again', { what: 'meet another' }, ['claimed', 'run-again', 'claimed', 'recorded'], { attempt: 2 }],
    ['recorded without its body', { size: 2_000 }, ['claimed', 'recorded'], { bodyKept: false }],
  ])('tell of one that is %s', async (_, body, expected, last) => {
    await pay(body);
    expect(types()).toEqual(expected);
    expect(told.at(-1)).toMatchObject(last);
  });

  it('tell of what a duplicate meets', async () => {
    const first = pay({ what: 'wait' });
    await gate.entered.promise;
    expect((await pay({ what: 'wait' })).status).toBe(409);
    gate.opened.resolve();
    expect((await first).status).toBe(201);
    expect(types()).toEqual(['claimed', 'in-flight', 'recorded']);
    expect(told[1]).toMatchObject({ status: 409, problem: 'request-in-flight', attempt: 0, claimMs: MS });
  });

  it('tell of a response that was not kept', async () => {
    await pay({ size: 2_000 });
    expect((await pay({ size: 2_000 })).status).toBe(409);
    expect(told.at(-1)).toMatchObject({ type: 'not-kept', status: 409, problem: 'response-not-kept' });
  });

  it('tell of requests that have no key that can be used', async () => {
    const send = (path: string, headers: [string, string][]) => test.request({ method: 'POST', path, headers });
    await send('/shops/7/payments', []);
    await send('/shops/7/payments', [['Idempotency-Key', 'x'.repeat(256)]]);
    await send('/shops/7/optional', []);
    expect(told).toMatchObject([
      { type: 'missing', status: 400, attempt: 0 },
      { type: 'malformed', status: 400 },
      { type: 'unprotected', route: '/shops/:shop/optional' },
    ]);
    expect(told.some((event) => 'keyHash' in event || 'claimMs' in event)).toBe(false);
  });

  it('tell of a time limit', async () => {
    expect((await test.post('/shops/7/impatient', KEY)).status).toBe(503);
    expect(types()).toEqual(['claimed', 'timed-out']);
    expect(told[1]).toMatchObject({ status: 503, handlerMs: MS });
  });

  it('tell of a store that is out of reach', async () => {
    await queryOn(test.databaseUrl, 'alter table idempotency_keys rename to hidden');
    try {
      expect((await pay()).status).toBe(503);
    } finally {
      await queryOn(test.databaseUrl, 'alter table hidden rename to idempotency_keys');
    }
    expect(told).toMatchObject([{ type: 'store-unavailable', status: 503, attempt: 0, claimMs: MS }]);
  });

  it('tell of the steps of a lease, those that are remembered, and of a takeover', async () => {
    const first = test.post('/shops/7/lease', KEY, { what: 'die' });
    await gate.entered.promise;
    await queryOn(
      test.databaseUrl,
      'update idempotency_keys set claim_id = $1::uuid, lease_expires_at = statement_timestamp()',
      [randomUUID()],
    );
    expect((await other.post('/shops/7/lease', KEY, { what: 'die' })).status).toBe(201);
    expect(types()).toEqual(['claimed', 'step-run', 'claimed', 'lease-taken-over', 'step-remembered', 'recorded']);
    expect(told[1]).toMatchObject({ mode: 'lease', step: 'charge', stepMs: MS, attempt: 1 });
    expect(told[3]).toMatchObject({ attempt: 2 });
    gate.opened.resolve();
    await first;
    expect(told.at(-1)).toMatchObject({ type: 'replayed', attempt: 1 });
  });

  it('tell of an attempt that has failed as of no takeover', async () => {
    const first = test.post('/shops/7/lease', KEY, { what: 'die' });
    await gate.entered.promise;
    gate.opened.reject(new Error('failed as asked'));
    expect((await first).status).toBe(500);
    expect((await test.post('/shops/7/lease', KEY, { what: 'die' })).status).toBe(201);
    expect(types()).toEqual(['claimed', 'step-run', 'rolled-back', 'claimed', 'step-remembered', 'recorded']);
  });

  it('tell of an operation that waits for an operator', async () => {
    const first = test.post('/shops/7/lease', KEY, { what: 'die' });
    await gate.entered.promise;
    await queryOn(
      test.databaseUrl,
      `update idempotency_keys set claim_id = $1::uuid, lease_expires_at = statement_timestamp(),
         attention = '{"reason": "effect-unknown", "steps": ["charge"], "detail": ""}'`,
      [randomUUID()],
    );
    expect((await test.post('/shops/7/lease', KEY, { what: 'die' })).status).toBe(409);
    expect(told.at(-1)).toMatchObject({ type: 'interrupted', status: 409 });
    gate.opened.resolve();
    await first;
  });

  it('tell of concurrent transactions that were in the way to the end', async () => {
    expect((await pay({ what: 'meet others' })).status).toBe(503);
    expect(types()).toEqual(['claimed', 'run-again', 'claimed', 'conflict']);
    expect(told[3]).toMatchObject({ status: 503, problem: 'transaction-conflict', attempt: 2, handlerMs: MS });
  });

  it('tell of a request that was given up before its handler ran', async () => {
    const first = test.post('/shops/7/hurried', KEY);
    await gate.entered.promise;
    expect((await test.post('/shops/7/hurried', KEY, {}, [['X-Hurry', 'yes']])).status).toBe(408);
    expect(types()).toEqual(['claimed', 'given-up']);
    expect(told[1]).toMatchObject({ attempt: 0, keyHash: HASH });
    gate.opened.resolve();
    expect((await first).status).toBe(201);
    expect(types()).toEqual(['claimed', 'given-up', 'recorded']);
  });

  it('tell of an attempt whose lease another one has taken', async () => {
    const first = test.post('/shops/7/lease', KEY, { what: 'go on' });
    await gate.entered.promise;
    await queryOn(test.databaseUrl, 'update idempotency_keys set claim_id = $1::uuid', [randomUUID()]);
    gate.opened.resolve();
    expect((await first).status).toBe(409);
    expect(types()).toEqual(['claimed', 'step-run', 'lease-lost']);
    expect(told[2]).toMatchObject({ status: 409, problem: 'lease-lost', attempt: 1 });
  });

  it('tell of code that no longer comes by the steps of an earlier attempt', async () => {
    expect((await test.post('/shops/7/lease', KEY, { what: 'change' })).status).toBe(500);
    expect((await test.post('/shops/7/lease', KEY, { what: 'change' })).status).toBe(409);
    expect(types()).toEqual(['claimed', 'step-run', 'rolled-back', 'claimed', 'steps-changed']);
    expect(told[4]).toMatchObject({ status: 409, problem: 'steps-changed', attempt: 2 });
  });

  it('tell of each batch of a purge', async () => {
    await pay();
    await queryOn(test.databaseUrl, `update idempotency_keys set created_at = '2020-01-01', expires_at = '2020-01-02'`);
    await test.app.get(IdempotencyService).purge();
    expect(told.at(-1)).toEqual({ type: 'purge-batch', deleted: 1, locked: false, durationMs: MS });
  });

  it.each([
    [
      'throws',
      () => {
        throw new Error('of the listener');
      },
    ],
    ['rejects', () => Promise.reject(new Error('of the listener'))],
  ])('hurt no request when their listener %s', async (_, listener) => {
    onEvent = listener;
    const first = await pay();
    expect([first.status, (await pay()).body]).toEqual([201, first.body]);
    expect(logs().filter((line) => line.includes('of the listener'))).toHaveLength(3);
  });

  it('are told outside of the request, whatever the listener does with the database', async () => {
    onEvent = ({ type }) =>
      type === 'rolled-back' && test.dataSource.query(`insert into effects (label) values ('told')`);
    await pay({ what: 'fail' });
    await expect(test.effects()).resolves.toEqual(['told']);
    expect(logs()).toEqual([expect.stringContaining('failed as asked')]);
  });
});
