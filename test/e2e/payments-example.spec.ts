import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Client } from 'pg';
import { readEnvironment } from '../../examples/payments/environment.js';
import { createTestDatabase } from '../support/database.js';
import { type Command, type PaymentsExample, startPaymentsExample } from '../support/payments-example.js';
import { openRequest, rawRequest, withoutVolatile, type RawRequest, type RawResponse } from '../support/raw-http.js';
import { INSTANCES, inTurn, throughPooler } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

// Each test starts an application and a database, some of them twice, next to other test files that do the same.
jest.setTimeout(120_000);

let dataDir: string;
let undo: (() => unknown)[];

beforeEach(() => {
  const base = mkdtempSync(join(tmpdir(), 'payments-example-spec-'));
  chmodSync(base, 0o755); // Root's database runs as another user, who has to get there.
  dataDir = join(base, 'data');
  undo = [() => rmSync(base, { recursive: true, force: true, maxRetries: 5 })];
});

afterEach(async () => {
  for (const step of undo.toReversed()) await step();
});

/** One process or more over one database, which is the first one's own unless the environment names another. */
async function start(environment: NodeJS.ProcessEnv, command?: Command): Promise<PaymentsExample> {
  const first = await startPaymentsExample({ DATA_DIR: dataDir, ...environment }, command);
  undo.push(() => first.end('SIGKILL'));
  const others: PaymentsExample[] = [];
  while (others.length + 1 < INSTANCES) {
    const databaseUrl = environment['DATABASE_URL'] ?? runningDatabase().url;
    const other = await startPaymentsExample({ ...environment, DATABASE_URL: databaseUrl }, command);
    undo.push(() => other.end('SIGKILL'));
    others.push(other);
  }
  const all = [first, ...others];
  const next = inTurn(all);
  return {
    get port() {
      return next().port;
    },
    output: first.output,
    errors: () => all.map((example) => example.errors()).join(''),
    async end(signal) {
      // A kill strikes all at once. Otherwise the others go first, while their database is still there.
      const codes = signal === 'SIGKILL' ? await Promise.all(all.map((example) => example.end(signal))) : [];
      for (const example of all.toReversed()) codes.push(await example.end(signal));
      const [failure = 0] = codes.filter((code) => code !== 0);
      return failure;
    },
  };
}

/** The requests that a printed command line sends. Knows as much of curl as is printed. */
function requestsOf(line: string): RawRequest[] {
  return line
    .split('curl ')
    .slice(1)
    .map((command) => {
      const words = [...command.matchAll(/'([^']*)'|(\S+)/g)].map(([word, quoted]) => quoted ?? word);
      const after = (option: string) => words.flatMap((word, index) => (words[index - 1] === option ? [word] : []));
      const { pathname, search } = new URL(words.find((word) => word.startsWith('http://'))!);
      const headers = after('-H').map((header) => header.split(': ') as [string, string]);
      const [body] = after('-d');
      return { method: body === undefined ? 'GET' : 'POST', path: pathname + search, headers, body };
    });
}

const header = ({ headerLines }: RawResponse, name: string) =>
  headerLines.find((line) => line.toLowerCase().startsWith(`${name.toLowerCase()}: `))?.slice(name.length + 2);

const json = (response: RawResponse) => JSON.parse(response.body.toString()) as unknown;

function payment(key: string, query = ''): RawRequest {
  return {
    method: 'POST',
    path: `/payments${query}`,
    headers: [
      ['Content-Type', 'application/json'],
      ['Idempotency-Key', key],
    ],
    body: '{"amount":1000,"currency":"EUR","destination":"acct_1"}',
  };
}

describe.each(['express', 'fastify'])('npm start with ADAPTER=%s', (adapter) => {
  it('shows what its command lines say, without a warning, and stops on SIGTERM', async () => {
    const example = await start({ ADAPTER: adapter }, 'npm start');
    expect(example.errors()).toBe('');
    const send = (request: RawRequest) => rawRequest(example.port, request);
    const lines = example.output.filter((line) => line.startsWith('curl ')).map(requestsOf);
    expect(lines.map((requests) => requests.length)).toEqual([1, 1, 1, 2, 2]);
    const [[firstRequest], [retryRequest], [otherRequest], slowRequests, [failingRequest, listRequest]] = lines as [
      [RawRequest],
      [RawRequest],
      [RawRequest],
      [RawRequest, RawRequest],
      [RawRequest, RawRequest],
    ];

    const first = await send(firstRequest);
    expect(first.status).toBe(201);
    expect(json(first)).toEqual({
      payment_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      amount: 1000,
      currency: 'EUR',
      destination: expect.stringMatching(/^acct_/),
      status: 'PENDING',
      created_at: expect.stringMatching(/Z$/),
    });
    expect(header(first, 'Idempotency-Replayed')).toBeUndefined();

    const replay = await send(retryRequest);
    expect(replay.body).toEqual(first.body);
    expect(withoutVolatile(replay.headerLines).toSorted()).toEqual(
      [...withoutVolatile(first.headerLines), 'Idempotency-Replayed: true'].toSorted(),
    );

    const mismatch = await send(otherRequest);
    expect(mismatch.status).toBe(422);
    expect(header(mismatch, 'Content-Type')).toMatch(/^application\/problem\+json/);

    // The printed pause makes sure of the order. Here either may come first: one pays, the other is told to wait.
    const slow = await Promise.all(slowRequests.map(send));
    const [paid, conflict] = slow.toSorted((one, other) => one.status - other.status) as [RawResponse, RawResponse];
    expect(paid.status).toBe(201);
    expect(conflict.status).toBe(409);
    expect(header(conflict, 'Retry-After')).toMatch(/^\d+$/);

    expect((await send(failingRequest)).status).toBe(500);
    const payments = [json(first), json(paid)];
    expect(json(await send(listRequest))).toEqual(payments);
    const ids = payments.map((each) => (each as { payment_id: string }).payment_id);
    expect(json(await send({ method: 'GET', path: '/ledger' }))).toEqual(
      ids.map((id) => expect.objectContaining({ payment_id: id, amount: 1000 })),
    );

    const ask = (path: string) => send({ method: 'GET', path });
    expect(json(await ask('/health'))).toMatchObject({ status: 'ok', info: { idempotency: { status: 'up' } } });
    expect((await ask('/metrics')).body.toString()).toMatch(
      /^idempotency_requests_total\{.*http_route="\/payments".*idempotency_outcome="replayed".*\} 1$/m,
    );
    expect(json(await ask('/openapi.json'))).toMatchObject({
      paths: { '/wires': { post: { 'x-idempotency': { mode: 'lease' } } } },
    });
    expect(example.errors()).not.toMatch(/warn/i);

    expect(await example.end('SIGTERM')).toBe(0);
  });

  it('keeps payments and keys over a kill of everything, and nothing of the request that it hit', async () => {
    const before = await start({ ADAPTER: adapter });
    const keys = ['one', 'two'];
    const paid = await Promise.all(keys.map((key) => rawRequest(before.port, payment(key))));

    const interrupted = await openRequest(before.port, payment('three', '?delay_ms=3000'));
    const database = runningDatabase();
    await database.waitForUncommittedWrites();
    process.kill(database.pid, 'SIGKILL');
    await before.end('SIGKILL');
    await expect(interrupted.response).rejects.toThrow(/Received 0 bytes/);

    const after = await start({ ADAPTER: adapter });
    const list = async (path: string) => json(await rawRequest(after.port, { method: 'GET', path })) as unknown[];
    expect(await list('/payments')).toEqual(expect.arrayContaining(paid.map(json)));
    expect(await list('/payments')).toHaveLength(2);
    expect(await list('/ledger')).toHaveLength(2);

    const replays = await Promise.all(keys.map((key) => rawRequest(after.port, payment(key))));
    expect(replays.map(({ body }) => body)).toEqual(paid.map(({ body }) => body));
    expect(replays.map((replay) => header(replay, 'Idempotency-Replayed'))).toEqual(['true', 'true']);

    const retry = await rawRequest(after.port, payment('three', '?delay_ms=3000'));
    expect(retry.status).toBe(201);
    expect(header(retry, 'Idempotency-Replayed')).toBeUndefined();
    expect(await list('/payments')).toHaveLength(3);
    expect(await list('/ledger')).toHaveLength(3);
  });
});

describe('npm start', () => {
  it('uses the server of DATABASE_URL, and stops on SIGINT', async () => {
    const database = await createTestDatabase();
    undo.push(() => database.drop());
    const example = await start({ DATABASE_URL: throughPooler(database.url) }, 'npm start');
    expect((await rawRequest(example.port, payment('one'))).status).toBe(201);
    expect(await example.end('SIGINT')).toBe(0);

    const client = new Client(database.url);
    await client.connect();
    expect((await client.query('select key from idempotency_keys')).rows).toEqual([{ key: 'one' }]);
    await client.end();
  });

  it('says what is wrong with its environment', async () => {
    expect(() => readEnvironment({ ADAPTER: 'koa' })).toThrow('ADAPTER must be "express" or "fastify".');
    expect(() => readEnvironment({ PORT: '99999' })).toThrow('PORT must be 0 (any free port) to 65535.');
    expect(() => readEnvironment({ RATE_LIMIT: '0' })).toThrow('RATE_LIMIT must be a number of requests a minute.');
    await expect(start({ DATABASE_URL: 'postgres://127.0.0.1:1/none' })).rejects.toThrow('ECONNREFUSED');
  });
});

/** The example's own database, as its lock file and password tell. */
function runningDatabase() {
  const [pid, , , port] = readFileSync(join(dataDir, 'postmaster.pid'), 'utf8').split('\n');
  const password = readFileSync(join(dataDir, 'launcher-password'), 'utf8').trim();
  const url = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`;
  return {
    url,
    pid: Number(pid),
    /** A transaction has an id from its first write on. */
    async waitForUncommittedWrites(): Promise<void> {
      const client = new Client(url);
      await client.connect();
      const sql = `select from pg_stat_activity where state = 'idle in transaction' and backend_xid is not null`;
      await waitFor(async () => (await client.query(sql)).rowCount, { what: 'the payment to be written' });
      await client.end();
    },
  };
}
