import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { CountingProxy } from '../../support/counting-proxy.js';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { programOf } from '../../support/program.js';
import { rawRequest, type RawResponse } from '../../support/raw-http.js';
import { headerOf, json, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { type FromApp, LIMIT } from './protocol.js';

let database: TestDatabase;
let proxy: CountingProxy;
/** In a process of its own: @nestjs/throttler is CommonJS that requires ESM, which jest cannot before Node.js 24.9. */
let app: ChildProcess;
let ports: FromApp['ports'];
let complaints = '';

beforeAll(async () => {
  database = await createTestDatabase();
  proxy = await CountingProxy.start(database.url);
  app = fork(programOf('test/e2e/throttler/app.ts'), {
    execArgv: [],
    env: { PATH: process.env['PATH'], APP_DATABASE_URL: proxy.url },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  app.stderr!.on('data', (chunk) => (complaints += String(chunk)));
  const [ready] = (await Promise.race([once(app, 'message'), once(app, 'exit')])) as [FromApp];
  if (typeof ready !== 'object') throw new Error(`The application did not start: ${complaints}`);
  ports = ready.ports;
});

afterAll(async () => {
  app.kill();
  await once(app, 'exit');
  await proxy.stop();
  await database.drop();
});

let clients = 0;

/** Each with a limit of its own. */
const newClient = () => `client ${++clients}`;

describe.each(ADAPTERS)('the guard for @nestjs/throttler on %s', (adapter) => {
  const post = (path: string, client: string, key?: string, body: object = {}, user?: string) =>
    rawRequest(ports[adapter]!, {
      method: 'POST',
      path,
      headers: [
        ['Content-Type', 'application/json'],
        ['X-Client', client],
        ...(key === undefined ? [] : [['Idempotency-Key', `${adapter} ${key}`] as const]),
        ...(user === undefined ? [] : [['X-User', user] as const]),
      ],
      body: JSON.stringify(body),
    });
  const get = (path: string) => rawRequest(ports[adapter]!, { method: 'GET', path });
  const inside = async () => json(await get('/inside'))['inside'] as number;
  /** Sends the request as often as it may be sent, and once more. */
  const beyondLimit = async (send: (turn: number) => Promise<RawResponse>) => {
    const statuses: number[] = [];
    for (let turn = 0; turn <= LIMIT; turn++) statuses.push((await send(turn)).status);
    return statuses;
  };
  const refused = (status: number) => [...Array.from({ length: LIMIT }, () => status), 429];

  it.each(['/transaction', '/lease'])('does not count replays, which it leaves as they are: %s', async (path) => {
    const client = newClient();
    const first = await post(path, client, `replayed ${path}`);
    expect([first.status, headerOf(first, 'X-RateLimit-Remaining')]).toEqual([201, String(LIMIT - 1)]);
    for (let turn = 0; turn < 2 * LIMIT; turn++) {
      const replay = await post(path, client, `replayed ${path}`);
      expect(replay).toEqual(replayOf(first));
      expect(headerOf(replay, 'X-RateLimit-Remaining')).toBeUndefined();
    }
    const next = await post(path, client, `next ${path}`);
    expect([next.status, headerOf(next, 'X-RateLimit-Remaining')]).toEqual([201, String(LIMIT - 2)]);
  });

  it('answers replays to a client that has used its limit up', async () => {
    const client = newClient();
    const first = await post('/transaction', client, 'late');
    expect(await beyondLimit(() => post('/plain', client))).toEqual(refused(201)); // a route has a count of its own
    expect(await beyondLimit((turn) => post('/transaction', client, `late ${turn}`))).toEqual([201, 201, 429, 429]);
    expect(await post('/transaction', client, 'late')).toEqual(replayOf(first));
  });

  it('counts requests with keys that are new, made up or not', async () => {
    const client = newClient();
    expect(await beyondLimit((turn) => post('/transaction', client, `made up ${turn}`))).toEqual(refused(201));
  });

  it('counts requests without a key, or with one that cannot be used', async () => {
    const [without, malformed] = [newClient(), newClient()];
    expect(await beyondLimit(() => post('/transaction', without))).toEqual(refused(400));
    expect(await beyondLimit(() => post('/transaction', malformed, 'a'.repeat(300)))).toEqual(refused(400));
  });

  it('counts requests whose key was used for another one', async () => {
    await post('/transaction', newClient(), 'used', { amount: 1 });
    const client = newClient();
    expect(await beyondLimit(() => post('/transaction', client, 'used', { amount: 2 }))).toEqual(refused(422));
  });

  it('counts requests whose key is in flight', async () => {
    const insideBefore = await inside();
    const running = post('/slow', newClient(), 'slow');
    await waitFor(async () => (await inside()) > insideBefore, { what: 'the first request to run' });
    const client = newClient();
    expect(await beyondLimit(() => post('/slow', client, 'slow'))).toEqual(refused(409));
    await get('/open');
    expect((await running).status).toBe(201);
  });

  it.each([
    ['/unstored', 409],
    ['/hidden', 403],
  ])('counts requests that are not answered by what was recorded: %s', async (path, status) => {
    await post(path, newClient(), `kept back ${path}`);
    const client = newClient();
    expect(await beyondLimit(() => post(path, client, `kept back ${path}`))).toEqual(refused(status));
  });

  it('counts requests to routes that replay nothing', async () => {
    const [observed, plain] = [newClient(), newClient()];
    expect(await beyondLimit(() => post('/observed', observed, 'observed'))).toEqual(refused(201));
    expect(await beyondLimit(() => post('/plain', plain, 'plain'))).toEqual(refused(201));
  });

  it('counts a request that was taken for a replay, and is another caller’s once the guards behind have run', async () => {
    await post('/transaction', newClient(), 'of nobody');
    const client = newClient();
    const asUser = (turn: number) => post('/transaction', client, 'of nobody', {}, `user ${turn}`);
    const runsBefore = json(await post('/transaction', newClient(), 'before'))['runs'] as number;
    expect(await beyondLimit(asUser)).toEqual(refused(201));
    const runsAfter = json(await post('/transaction', newClient(), 'after'))['runs'] as number;
    expect(runsAfter - runsBefore).toBe(LIMIT + 1); // the one that was refused has not run
    expect((await post('/transaction', newClient(), 'of nobody', {}, `user ${LIMIT}`)).status).toBe(201);
  });

  it('costs a replay nothing, and any other request with a key one question', async () => {
    const roundTrips = (key: string) => proxy.count(() => post('/transaction', newClient(), key));
    expect([await roundTrips('counted'), await roundTrips('counted')]).toEqual([3, 1]); // the look; claim and record
  });

  it('has nothing to complain about', () => {
    expect(complaints).toBe('');
  });
});
