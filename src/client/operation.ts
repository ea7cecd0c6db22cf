import { hash } from './body.js';
import { IdempotentRequestError, type Reason } from './errors.js';
import { exclusively, webLocks } from './exclusively.js';

/** Where keys are kept: anything that remembers texts by names, at once or in time. */
export interface KeyStorage {
  get(name: string): Awaitable<string | null | undefined>;
  set(name: string, value: string): Awaitable<unknown>;
  remove(name: string): Awaitable<unknown>;
}

/** `localStorage`, `sessionStorage`, or what is like them. */
export interface WebStorage {
  getItem(name: string): Awaitable<string | null>;
  setItem(name: string, value: string): Awaitable<unknown>;
  removeItem(name: string): Awaitable<unknown>;
}

type Awaitable<T> = T | Promise<T>;

export interface OperationOptions {
  /**
   * So long a key may be used, in milliseconds: less than the server's `ttlMs`, by as long as a call may go on.
   * @default 82800000 (23 h, an hour less than the server's default)
   */
  ttlMs?: number;
  /** Whether a body that is a text is kept beside its key, for {@link Operation.pending}. @default false */
  keepBody?: boolean;
}

/** An operation that was begun, and whose outcome nobody has learned yet. */
export interface PendingOperation {
  key: string;
  startedAt: Date;
  /** With `keepBody`. */
  body: string | undefined;
}

export interface Operation {
  readonly name: string;
  /** What is under way, or was when the page was left. */
  pending(): Promise<PendingOperation | undefined>;
  /** Gives up on what is pending: the next call begins a new operation, whatever became of the former one. */
  forget(): Promise<void>;
  /** @internal The key that is pending for the same request, or a new one. */
  begin(request: BegunRequest): Promise<string>;
  /** @internal The operation of this key has an outcome. */
  settle(key: string): Promise<void>;
}

/** @internal */
export interface BegunRequest {
  fingerprint: string;
  body: unknown;
  /** By the caller. */
  key: string | undefined;
}

interface Entry extends Partial<Record<'key' | 'fingerprint', string>> {
  at?: number;
  body?: string | undefined;
  /** How many operations of this name have settled. */
  settled?: number | undefined;
}

const PREFIX = 'idempotency:';

class Memory extends Map<string, string> implements KeyStorage {
  readonly remove = (name: string): boolean => this.delete(name);
}
const MEMORY = new Memory();

/**
 * An operation whose key outlives the page: it is kept from before its first attempt until it has settled.
 * @param name tells it from all others of this storage, such as `checkout:<id of the cart>`
 * @param storage `localStorage`, `sessionStorage`, or anything with `get`, `set` and `remove`. @default memory
 */
export function operation(
  name: string,
  storage: KeyStorage | WebStorage = MEMORY,
  { ttlMs = 82_800_000, keepBody = false }: OperationOptions = {},
): Operation {
  const id = PREFIX + name;
  const isOfTheWeb = 'getItem' in storage;
  // Nobody else writes to memory, and the locks of a browser reach as far as its storage. What another kind of storage
  // reaches nobody knows: there keys are such that two who begin at the same time come to the same.
  const isAlone = storage === MEMORY || (isOfTheWeb && webLocks());

  const ask = async (verb: keyof KeyStorage, ...words: string[]) =>
    (storage as unknown as Record<string, (...words: string[]) => Awaitable<string | undefined>>)[
      isOfTheWeb ? `${verb}Item` : verb
    ]!(...words);
  const read = async (): Promise<Entry> => JSON.parse((await ask('get', id)) ?? '{}') as Entry;
  const write = (entry: Entry) => ask('set', id, JSON.stringify(entry));
  const end = async ({ settled = 0 }: Entry): Promise<void> => {
    await (isAlone ? ask('remove', id) : write({ settled: settled + 1 }));
  };
  const newKey = async ({ settled = 0 }: Entry): Promise<string> => {
    if (isAlone) {
      return randomKey();
    }
    let seed = await ask('get', PREFIX);
    if (!seed) {
      await ask('set', PREFIX, randomKey());
      // Once in the life of a storage: of two who write it at the same time the last one's stays.
      await new Promise((resolve) => setTimeout(resolve, 100));
      seed = await ask('get', PREFIX);
    }
    return hash(JSON.stringify([seed, name, settled]));
  };

  return {
    name,
    async pending() {
      const { key, at, body } = await read();
      return key ? { key, startedAt: new Date(at!), body } : undefined;
    },
    forget: () => exclusively(id, async () => end(await read())),
    begin: ({ fingerprint, body, key: given }) =>
      exclusively(id, async () => {
        const entry = await read();
        const { key } = entry;
        if (key) {
          if (Date.now() >= entry.at! + ttlMs) {
            throw unsettled(key, 'key-expired', 'too long ago for its key');
          }
          if (entry.fingerprint !== fingerprint) {
            throw unsettled(key, 'payload-changed', 'with another request');
          }
          return key;
        }
        const begun = given ?? (await newKey(entry));
        await write({
          key: begun,
          fingerprint,
          at: Date.now(),
          settled: entry.settled,
          body: keepBody && typeof body === 'string' ? body : undefined,
        });
        return begun;
      }),
    settle: (key) =>
      exclusively(id, async () => {
        const entry = await read();
        if (entry.key === key) {
          await end(entry);
        }
      }),
  };

  function unsettled(key: string, reason: Reason, what: string): IdempotentRequestError {
    const message = `"${name}" was begun ${what}: go on as it was, or forget() it`;
    return new IdempotentRequestError(reason, 'unknown', key, message);
  }
}

export function randomKey(): string {
  // Pages that are not of a secure origin have the second only.
  return crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join('-');
}
