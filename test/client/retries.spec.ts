import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { idempotent, type IdempotentOptions, IdempotentRequestError, type Progress } from '../../src/client/index.js';
import { problem, type Script, ScriptedServer } from './scripted-server.js';

let server: ScriptedServer;

beforeAll(async () => {
  server = await ScriptedServer.start();
});

afterAll(() => server.stop());

const PAID: Script = { status: 201, body: { paid: true } };
const POST = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"amount":1}' };

const client = (options: IdempotentOptions = {}) => idempotent(fetch, { baseDelayMs: 5, ...options });
const failure = async (call: Promise<unknown>) => {
  await expect(call).rejects.toBeInstanceOf(Error);
  return (await call.catch((error: unknown) => error)) as IdempotentRequestError;
};

describe('what is retried, with the same key', () => {
  it.each<[string, Script]>([
    ['a connection that is cut', 'cut'],
    [
      'an answer that breaks off',
      (response) => {
        response.writeHead(201, { 'Content-Length': '100' }).write('{"paid"');
        setImmediate(() => response.destroy());
      },
    ],
    ['408', { status: 408 }],
    ['425', { status: 425 }],
    ['429', { status: 429 }],
    ['500', { status: 500, body: 'not JSON' }],
    ['502 of a proxy', { status: 502, headers: { 'Content-Type': 'text/html' }, body: '<h1>Bad Gateway</h1>' }],
    ['503', problem(503, 'store-unavailable')],
    ['504', { status: 504 }],
    ['409 in flight', problem(409, 'request-in-flight')],
    ['409 of a lost lease', problem(409, 'lease-lost')],
    [
      '409 in flight of another problemBaseUrl',
      {
        status: 409,
        body: { type: 'https://shop.example/problems/request-in-flight' },
      },
    ],
    ['503 of a conflict', problem(503, 'transaction-conflict')],
    ['503 of a time limit', problem(503, 'timed-out')],
  ])('%s', async (_, first) => {
    server.answers(first, first, PAID);
    const response = await client()(server.url, POST);
    expect([response.status, await response.json()]).toEqual([201, { paid: true }]);
    expect(server.received.map(({ body }) => body)).toEqual([POST.body, POST.body, POST.body]);
    expect(server.keys[0]).toMatch(/^[0-9a-f-]{36}$/);
    expect(new Set(server.keys).size).toBe(1);
  });

  it('anew with another key in another call', async () => {
    server.answers(PAID);
    const pay = client();
    await pay(server.url, POST);
    await pay(server.url, POST);
    expect(new Set(server.keys).size).toBe(2);
  });

  it('with the key that the caller has derived, in the header of its choice', async () => {
    server.answers('cut', PAID);
    await client({ header: 'X-Key' })(server.url, { ...POST, headers: { 'X-Key': 'order-1' } });
    expect(server.received.map(({ headers }) => headers['x-key'])).toEqual(['order-1', 'order-1']);
  });
});

describe('what is not retried', () => {
  it.each<[string, Script]>([
    ['a success', PAID],
    ['204', { status: 204 }],
    ['400 of the application', { status: 400, body: { message: ['amount must be positive'] } }],
    ['402', { status: 402, body: { message: 'Declined' } }],
    ['404', { status: 404 }],
    ['409 of the application', { status: 409, body: { type: 'https://shop.example/sold-out' } }],
    ['409 of the application that asks for time', { status: 409, headers: { 'Retry-After': '1' } }],
    ['422 of the application', { status: 422, body: 'null' }],
  ])('%s: it is the response', async (_, answer) => {
    server.answers(answer, PAID);
    const response = await client()(server.url, POST);
    expect(response.status).toBe((answer as { status: number }).status);
    expect(server.received).toHaveLength(1);
  });

  it.each([
    [400, 'key-missing', 'not-done'],
    [400, 'key-malformed', 'not-done'],
    [415, 'media-type-unsupported', 'not-done'],
    [422, 'key-reused', 'not-done'],
    [409, 'response-not-kept', 'done'],
    [409, 'outcome-unknown', 'unknown'],
    [409, 'steps-changed', 'unknown'],
  ] as const)('%i %s: it is an error that says that the operation is %3$s', async (status, slug, outcome) => {
    server.answers(problem(status, slug), PAID);
    const error = await failure(client()(server.url, POST));
    expect(error).toBeInstanceOf(IdempotentRequestError);
    expect(error).toMatchObject({
      name: 'IdempotentRequestError',
      message: `This is ${slug}.`,
      reason: 'refused',
      transient: false,
      outcome,
      status,
      attempts: 1,
      key: server.keys[0],
      problem: { type: `urn:nestjs-idempotency:${slug}` },
    });
    expect(server.received).toHaveLength(1);
  });

  it('GET: it goes through as it is', async () => {
    server.answers(problem(503, 'store-unavailable'));
    expect((await client()(server.url)).status).toBe(503);
    expect(server.keys).toEqual([undefined]);
  });

  it('what cannot be sent', async () => {
    const started = Date.now();
    await expect(client()('no address', POST)).rejects.toThrow('Failed to parse URL');
    await expect(client()(server.url, { ...POST, body: new ReadableStream(), duplex: 'half' })).rejects.toThrow(
      'A stream can be sent only once',
    );
    expect(Date.now() - started).toBeLessThan(5_000);
  });
});

describe('pauses', () => {
  const pauses = async (options: IdempotentOptions, ...script: Script[]): Promise<number[]> => {
    server.answers(...script, PAID);
    const found: number[] = [];
    await client({ onProgress: (step) => step.type === 'pause' && found.push(step.ms), ...options })(server.url, POST);
    return found;
  };

  it('are random, below a bound that doubles up to a limit', async () => {
    const found = await pauses({ baseDelayMs: 2, maxDelayMs: 5 }, ...Array.from({ length: 12 }, (): Script => 'cut'));
    const bounds = [2, 4, ...Array.from({ length: 10 }, () => 5)];
    expect(found.map((ms, index) => ms >= 0 && ms <= bounds[index]!)).toEqual(bounds.map(() => true));
    expect(new Set(found).size).toBe(12);
  });

  it('are as long as Retry-After says in seconds', async () => {
    const [ms] = await pauses({}, { status: 429, headers: { 'Retry-After': '1' } });
    expect(ms).toBeGreaterThanOrEqual(1_000);
    expect(ms).toBeLessThan(1_006);
  });

  it('are as long as Retry-After says by a date, by the clock of the server', async () => {
    const headers = { Date: 'Fri, 02 Jan 1970 00:00:00 GMT', 'Retry-After': 'Fri, 02 Jan 1970 00:00:01 GMT' };
    const [ms] = await pauses({}, { status: 503, headers });
    expect(ms).toBeGreaterThanOrEqual(1_000);
    expect(ms).toBeLessThan(1_006);
  });

  it.each(['soon', 'Thu, 01 Jan 1970 00:00:01 GMT', '-1'])('ignore a Retry-After of %s', async (value) => {
    const [ms] = await pauses({}, { status: 503, headers: { 'Retry-After': value } });
    expect(ms).toBeLessThan(6);
  });
});

describe('an end', () => {
  it('comes by the deadline, with an outcome that is unknown', async () => {
    server.answers('cut');
    const error = await failure(client({ deadlineMs: 300 })(server.url, POST));
    expect(error).toMatchObject({ reason: 'deadline', transient: true, outcome: 'unknown', key: server.keys[0] });
    // The last one may not have come as far as the server.
    expect([0, 1]).toContain(error.attempts! - server.received.length);
    expect(error.cause).toHaveProperty('message');
    expect(error.message).toBe('No response in 300 ms');
  });

  it('comes by the deadline, with an operation that was never begun', async () => {
    server.answers({ status: 429 }, { status: 425 }, { status: 429, headers: { 'Retry-After': '3600' } });
    const error = await failure(client()(server.url, POST));
    expect(error).toMatchObject({ reason: 'deadline', transient: true, outcome: 'not-done', status: 429 });
  });

  it('comes at once where the server asks for more time than there is', async () => {
    server.answers({ status: 503, headers: { 'Retry-After': '3600' } });
    const error = await failure(client()(server.url, POST));
    expect(error).toMatchObject({ reason: 'deadline', outcome: 'unknown', attempts: 1, retryAfterMs: 3_600_000 });
  });

  it('comes to an attempt that hangs, and the next one is told', async () => {
    server.answers(() => undefined, PAID);
    const response = await client({ attemptTimeoutMs: 100 })(server.url, POST);
    expect([response.status, new Set(server.keys).size, server.keys.length]).toEqual([201, 1, 2]);
  });

  it('comes by the deadline to an answer that never ends', async () => {
    server.answers((response) => void response.writeHead(201, { 'Content-Length': '100' }).write('{'));
    expect(await failure(client({ deadlineMs: 100 })(server.url, POST))).toMatchObject({ outcome: 'unknown' });
  });

  it('comes by the signal of the caller, before the first attempt', async () => {
    server.answers(PAID);
    const signal = AbortSignal.abort(new Error('changed my mind'));
    const error = await failure(client()(server.url, { ...POST, signal }));
    expect(error).toMatchObject({ reason: 'aborted', outcome: 'not-done', transient: true, attempts: 0 });
    expect((error.cause as Error).message).toBe('changed my mind');
    expect(server.received).toEqual([]);
  });

  it.each(['attempt', 'pause'] as const)('comes by the signal of the caller, in a step of kind %s', async (during) => {
    server.answers(...(during === 'pause' ? ['cut' as const] : [() => undefined]));
    const controller = new AbortController();
    const onProgress = ({ type }: Progress) => void (type === during && setTimeout(() => controller.abort(), 20));
    const call = client({ onProgress, baseDelayMs: 60_000, maxDelayMs: 50_000 })(server.url, {
      ...POST,
      signal: controller.signal,
    });
    expect(await failure(call)).toMatchObject({ reason: 'aborted', outcome: 'unknown', attempts: 1 });
  });
});

it('tells of each step, and minds no error of who listens', async () => {
  server.answers('cut', problem(409, 'request-in-flight'), PAID);
  const steps: Progress[] = [];
  const onProgress = (step: Progress) => {
    steps.push(step);
    throw new Error('The progress bar is broken');
  };
  await client({ onProgress })(server.url, POST);
  expect(steps.map(({ type, attempt }) => `${attempt} ${type}`)).toEqual([
    '1 attempt',
    '1 no-answer',
    '1 pause',
    '2 attempt',
    '2 answer',
    '2 pause',
    '3 attempt',
    '3 answer',
  ]);
  expect(steps[4]).toMatchObject({ status: 409, retry: true });
  expect(new Set(steps.map(({ key }) => key)).size).toBe(1);
});

it('tries again as soon as a browser is back online', async () => {
  server.answers('cut', PAID);
  const listeners = new Set<() => void>();
  const platform = globalThis as Record<string, unknown>;
  platform['addEventListener'] = (_: string, listener: () => void) => listeners.add(listener);
  platform['removeEventListener'] = (_: string, listener: () => void) => listeners.delete(listener);
  try {
    const onProgress = ({ type }: Progress) =>
      void (type === 'pause' && setTimeout(() => listeners.forEach((on) => on())));
    const started = Date.now();
    await client({ baseDelayMs: 1e9, maxDelayMs: 50_000, onProgress })(server.url, POST);
    expect(Date.now() - started).toBeLessThan(5_000);
    expect(listeners.size).toBe(0);
  } finally {
    delete platform['addEventListener'];
    delete platform['removeEventListener'];
  }
});
