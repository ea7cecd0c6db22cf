import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { IDBFactory } from 'fake-indexeddb';
import { del, get, set } from 'idb-keyval';
import {
  idempotent,
  operation,
  type OperationOptions,
  type KeyStorage,
  type WebStorage,
} from '../../src/client/index.js';
import { problem, type Script, ScriptedServer } from './scripted-server.js';

let server: ScriptedServer;

beforeAll(async () => {
  (globalThis as Record<string, unknown>)['indexedDB'] = new IDBFactory();
  server = await ScriptedServer.start();
});

afterAll(() => server.stop());

/** There is more time to wait than the caller has. */
const LOST: Script = { status: 503, headers: { 'Retry-After': '3600' } };
const PAID: Script = { status: 201, body: { paid: true } };
const post = (body: unknown) => ({
  method: 'POST',
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify(body),
});

class MapStorage implements WebStorage {
  readonly entries = new Map<string, string>();
  getItem = (name: string) => this.entries.get(name) ?? null;
  setItem = (name: string, value: string) => void this.entries.set(name, value);
  removeItem = (name: string) => void this.entries.delete(name);
}

const asKeyStorage = (storage: MapStorage): KeyStorage => ({
  get: async (name) => storage.getItem(name),
  set: async (name, value) => storage.setItem(name, value),
  remove: async (name) => storage.removeItem(name),
});

/** A name has one holder; who steals it takes it from that one (Web Locks, 3.4). */
class WebLocks {
  private readonly holders = new Map<string, { lost: (error: Error) => void; left: Promise<unknown> }>();

  readonly request = async (name: string, ...rest: [unknown, (() => unknown)?]): Promise<unknown> => {
    const work = rest.pop() as () => unknown;
    const { steal } = (rest[0] ?? {}) as { steal?: boolean };
    for (let holder; (holder = this.holders.get(name));) {
      if (steal) {
        holder.lost(new DOMException('stolen', 'AbortError'));
        break;
      }
      await holder.left.catch(() => undefined);
    }
    let lost!: (error: Error) => void;
    const stolen = new Promise<never>((_, reject) => (lost = reject));
    const left = Promise.race([stolen, new Promise((resolve) => resolve(work()))]);
    const holder = { lost, left };
    this.holders.set(name, holder);
    return left.finally(() => this.holders.get(name) === holder && this.holders.delete(name));
  };

  readonly query = async () => ({ held: [...this.holders.keys()].map((name) => ({ name })) });
}

const GLOBALS = ['navigator', 'localStorage', 'sessionStorage'];
const before = GLOBALS.map((name) => Object.getOwnPropertyDescriptor(globalThis, name));
const define = (name: string, value: unknown) => Object.defineProperty(globalThis, name, { value, configurable: true });
afterEach(() =>
  GLOBALS.forEach((name, at) =>
    Object.defineProperty(globalThis, name, before[at] ?? { value: undefined, configurable: true }),
  ),
);

/** As a browser has them. */
function withWebLocks(): void {
  define('navigator', { locks: new WebLocks() });
}

/** As a tab sees it. */
function asLocalStorage(storage: WebStorage): WebStorage {
  define('localStorage', storage);
  return storage;
}

function asSessionStorage(storage: WebStorage): WebStorage {
  define('sessionStorage', storage);
  return storage;
}

let count = 0;
let name: string;
beforeEach(() => {
  name = `checkout-${count++}`;
});

/** A page that was loaded: nothing of the last one is left but what is stored. */
const page = (storage: KeyStorage | WebStorage | undefined, options?: OperationOptions) => {
  const pay = idempotent(fetch);
  const checkout = operation(name, storage, options);
  return { checkout, pay: (body: unknown) => pay(server.url, { ...post(body), operation: checkout }) };
};

describe.each<[string, () => KeyStorage | WebStorage | undefined, boolean]>([
  ['memory', () => undefined, false],
  ['localStorage', () => asLocalStorage(new MapStorage()), false],
  ['localStorage with Web Locks', () => asLocalStorage(new MapStorage()), true],
  ['sessionStorage', () => asSessionStorage(new MapStorage()), true],
  ['what is like these', () => new MapStorage(), true],
  ['IndexedDB by idb-keyval', () => ({ get: (key) => get<string>(key), set, remove: del }), false],
  ['anything with get, set and remove', () => asKeyStorage(new MapStorage()), true],
])('an operation whose key is kept in %s', (_, newStorage, hasLocks) => {
  let storage: KeyStorage | WebStorage | undefined;

  beforeEach(() => {
    storage = newStorage();
    if (hasLocks) withWebLocks();
  });

  it('goes on with the same key after a reload, and the next one begins with a new one', async () => {
    server.answers(LOST);
    await expect(page(storage).pay({ amount: 1 })).rejects.toMatchObject({ outcome: 'unknown' });
    const [key] = server.keys;
    expect(await page(storage).checkout.pending()).toEqual({ key, startedAt: expect.any(Date), body: undefined });

    server.answers(PAID);
    expect((await page(storage).pay({ amount: 1 })).status).toBe(201);
    expect(server.keys).toEqual([key]);
    expect(await page(storage).checkout.pending()).toBeUndefined();

    server.answers(PAID);
    await page(storage).pay({ amount: 1 });
    expect(server.keys).not.toEqual([key]);
  });

  it('is an error with another payload while it has not settled, until the caller decides', async () => {
    server.answers(LOST);
    await expect(page(storage).pay({ amount: 1 })).rejects.toMatchObject({ outcome: 'unknown' });
    const [key] = server.keys;

    server.answers(PAID);
    await expect(page(storage).pay({ amount: 2 })).rejects.toMatchObject({
      reason: 'payload-changed',
      outcome: 'unknown',
      transient: false,
      key,
      message: `"${name}" is pending, payload-changed: repeat or forget() it`,
    });
    expect(server.received).toEqual([]);

    const { checkout, pay } = page(storage);
    await checkout.forget();
    expect((await pay({ amount: 2 })).status).toBe(201);
    expect(server.keys).not.toEqual([key]);
  });

  it('is an error when it began so long ago that the server may have forgotten its key', async () => {
    server.answers(LOST);
    await expect(page(storage).pay({ amount: 1 })).rejects.toMatchObject({ outcome: 'unknown' });
    const [key] = server.keys;
    server.answers(PAID);
    await expect(page(storage, { ttlMs: 0 }).pay({ amount: 1 })).rejects.toMatchObject({
      reason: 'key-expired',
      outcome: 'unknown',
      transient: false,
      key,
    });
    expect(server.received).toEqual([]);
  });

  it('is one with the same call at the same time, in this page and in another tab', async () => {
    server.answers(PAID);
    const [tab, other] = [page(storage), page(storage)];
    const responses = await Promise.all([tab.pay({ amount: 1 }), tab.pay({ amount: 1 }), other.pay({ amount: 1 })]);
    expect(await Promise.all(responses.map((response) => response.json()))).toEqual([
      { paid: true },
      { paid: true },
      { paid: true },
    ]);
    expect(server.received.length).toBeLessThanOrEqual(2); // the tabs share a key, and each has its request
    expect(new Set(server.keys).size).toBe(1);
  });

  it('is another with another name', async () => {
    server.answers(LOST);
    await expect(page(storage).pay({ amount: 1 })).rejects.toMatchObject({ outcome: 'unknown' });
    const [key] = server.keys;
    name = `${name}-other`;
    server.answers(PAID);
    await page(storage).pay({ amount: 2 });
    expect(server.keys).not.toEqual([key]);
  });
});

/** What one tab writes reaches the other some time later, whoever holds which lock. */
describe('an operation of two tabs, of which neither sees yet what the other has written', () => {
  const tab = () => page(asLocalStorage(new MapStorage()));

  beforeEach(withWebLocks);

  it('has one key', async () => {
    server.answers(LOST, LOST);
    const tabs = [tab(), tab()];
    const calls = await Promise.allSettled(tabs.map(({ pay }) => pay({ amount: 1 })));
    expect(calls.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(server.keys).toEqual([expect.any(String), server.keys[0]]);
    await expect(tab().pay({ amount: 2 })).rejects.toMatchObject({ reason: 'payload-changed', key: server.keys[0] });
  });

  it.each(['has settled in one', 'was given up in the other'])('is another after it %s', async (end) => {
    server.answers(LOST, PAID, PAID);
    const [one, other] = [tab(), tab()];
    await expect(one.pay({ amount: 1 })).rejects.toMatchObject({ reason: 'deadline' });
    await (end === 'has settled in one' ? one.pay({ amount: 1 }) : other.checkout.forget());
    await other.pay({ amount: 1 });
    const keys = server.keys;
    expect(keys.at(-1)).not.toBe(keys[0]);
  });

  it('is of each tab alone in sessionStorage', async () => {
    server.answers(LOST, LOST);
    const tabs = [page(asSessionStorage(new MapStorage())), page(asSessionStorage(new MapStorage()))];
    await Promise.allSettled(tabs.map(({ pay }) => pay({ amount: 1 })));
    expect(new Set(server.keys).size).toBe(2);
  });
});

describe('an operation', () => {
  it('has settled with any outcome that is known, and with no other', async () => {
    const { checkout, pay } = page(undefined);
    const pendingAfter = async (answer: Script) => {
      server.answers(answer);
      await pay({ amount: 1 }).catch(() => undefined);
      const isPending = (await checkout.pending()) !== undefined;
      await checkout.forget();
      return isPending;
    };
    const settling = [
      PAID,
      { status: 402 },
      { status: 404 },
      problem(409, 'response-not-kept'),
      { ...LOST, status: 429 },
    ];
    for (const answer of settling) expect(await pendingAfter(answer)).toBe(false);
    const unsettled: Script[] = [LOST, problem(409, 'outcome-unknown'), problem(422, 'key-reused')];
    for (const answer of unsettled) expect(await pendingAfter(answer)).toBe(true);
  });

  it('is not carried out where its key cannot be kept', async () => {
    const full: WebStorage = {
      getItem: () => null,
      setItem: () => {
        throw new Error('QuotaExceededError');
      },
      removeItem: () => undefined,
    };
    server.answers(PAID);
    await expect(page(full).pay({ amount: 1 })).rejects.toThrow('QuotaExceededError');
    expect(server.received).toEqual([]);
  });

  it('tells what has come of it where its key cannot be removed', async () => {
    const entries = new MapStorage();
    entries.removeItem = () => {
      throw new Error('gone');
    };
    asLocalStorage(entries);
    withWebLocks();
    server.answers(PAID);
    expect((await page(entries).pay({ amount: 1 })).status).toBe(201);
  });

  it('keeps its body only where the caller says so', async () => {
    const storage = new MapStorage();
    server.answers(LOST);
    await page(storage)
      .pay({ card: '4242' })
      .catch(() => undefined);
    expect([...storage.entries.values()].join()).not.toContain('4242');
    await page(storage).checkout.forget();

    await page(storage, { keepBody: true })
      .pay({ amount: 1 })
      .catch(() => undefined);
    const pending = await page(storage).checkout.pending();
    expect(pending?.body).toBe('{"amount":1}');
    expect(Date.now() - pending!.startedAt.getTime()).toBeLessThan(60_000);
  });

  it('takes the key of the caller, and keeps that', async () => {
    const { checkout, pay } = { checkout: operation(name), pay: idempotent(fetch) };
    server.answers(LOST);
    const init = { ...post({ amount: 1 }), headers: { 'Idempotency-Key': 'order-7' }, operation: checkout };
    await expect(pay(server.url, init)).rejects.toMatchObject({ key: 'order-7' });
    expect((await checkout.pending())?.key).toBe('order-7');
    await checkout.forget();
  });

  it('does not remove the key of an operation that has begun since', async () => {
    const storage = new MapStorage();
    const { checkout, pay } = page(storage);
    let answer!: () => void;
    server.answers((response) => {
      answer = () => response.writeHead(201).end();
    }, PAID);
    const first = idempotent(fetch)(server.url, { ...post({ amount: 1 }), operation: checkout });
    while (server.received.length === 0) await new Promise(setImmediate);
    await checkout.forget();
    server.answers(LOST);
    await pay({ amount: 2 }).catch(() => undefined);
    const pending = await checkout.pending();
    answer();
    expect((await first).status).toBe(201);
    expect(await checkout.pending()).toEqual(pending);
  });

  it('tells payloads of every kind apart, and knows the same one again', async () => {
    const form = (file: string) => {
      const data = new FormData();
      data.set('amount', '1');
      data.set('receipt', new Blob([file]), 'receipt.txt');
      return data;
    };
    const bodies: [string, (variant: string) => NonNullable<RequestInit['body']>][] = [
      ['text', (variant) => variant],
      ['bytes', (variant) => new TextEncoder().encode(variant)],
      ['blob', (variant) => new Blob([variant])],
      ['parameters', (variant) => new URLSearchParams({ variant })],
      ['form', form],
    ];
    for (const [kind, body] of bodies) {
      const checkout = operation(`${name}-${kind}`);
      const pay = idempotent(fetch);
      const send = (variant: string) => pay(server.url, { method: 'POST', body: body(variant), operation: checkout });
      const sendRequest = (variant: string) =>
        pay(new Request(server.url, { method: 'POST', body: body(variant) }), { operation: checkout });
      for (const call of [send, sendRequest]) {
        server.answers(LOST);
        await expect(call('one')).rejects.toMatchObject({ reason: 'deadline' });
        await expect(call('two')).rejects.toMatchObject({ reason: 'payload-changed' });
        server.answers(PAID);
        expect((await call('one')).status).toBe(201);
        expect(server.received[0]!.body).toContain('one');
      }
    }
  });
});

describe('calls that share a flight', () => {
  const hanging = () => {
    let answer!: () => void;
    server.answers((response) => {
      answer = () => response.writeHead(201, { 'Content-Type': 'application/json' }).end('{"paid":true}');
    });
    return () => answer();
  };
  const received = async () => {
    while (server.received.length === 0) await new Promise(setImmediate);
  };

  it('go on for those that are left when one is aborted, and end with the last', async () => {
    const pay = idempotent(fetch);
    const answer = hanging();
    const [one, other] = [new AbortController(), new AbortController()];
    const init = { ...post({}), headers: { 'Idempotency-Key': name } };
    const first = pay(server.url, { ...init, signal: one.signal });
    const second = pay(server.url, { ...init, signal: other.signal });
    await received();
    one.abort();
    await expect(first).rejects.toMatchObject({ reason: 'aborted', outcome: 'unknown', transient: true });
    answer();
    expect(await (await second).json()).toEqual({ paid: true });

    hanging();
    const both = [one, other].map(() => new AbortController());
    const calls = both.map(({ signal }) => pay(server.url, { ...init, signal }));
    await received();
    both.forEach((controller) => controller.abort());
    for (const call of calls) await expect(call).rejects.toMatchObject({ reason: 'aborted' });
    expect(server.received).toHaveLength(1);
  });

  it('must be of one payload', async () => {
    const pay = idempotent(fetch);
    const answer = hanging();
    const headers = { 'Idempotency-Key': name };
    const first = pay(server.url, { ...post({ amount: 1 }), headers });
    await received();
    await expect(pay(server.url, { ...post({ amount: 2 }), headers })).rejects.toMatchObject({
      reason: 'payload-changed',
    });
    answer();
    expect((await first).status).toBe(201);
    expect(server.received).toHaveLength(1);
  });
});
