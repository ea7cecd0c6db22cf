import type { AnswerLike } from './answers.js';
import { attempt, type AttemptOptions } from './attempts.js';
import { fingerprint } from './body.js';
import { IdempotentRequestError } from './errors.js';
import { begin, type Join } from './flight.js';
import { type Operation, randomKey } from './operation.js';

export interface IdempotentOptions extends AttemptOptions {
  /** The header that carries the key. @default 'Idempotency-Key' */
  header?: string | undefined;
}

/** What a call may say beside what `fetch` takes. A key of the caller's own is a header like any other. */
export interface IdempotentInit {
  /** Whose key is used, and kept until it has settled. Without it each call is an operation of its own. */
  operation?: Operation | undefined;
}

/** As much of a `Request` and of its options as is needed. */
interface Given {
  url?: string;
  method?: string | undefined;
  headers?: ConstructorParameters<typeof Headers>[0];
  body?: unknown;
  signal?: AbortSignal | null | undefined;
  clone?(): Request;
}

/**
 * A `fetch` for what must happen once: it sends the same key with every attempt, and tries again until there is a response
 * whose body is here in full. GET, HEAD and OPTIONS go through as they are.
 *
 * Calls of one operation, or with one key, that come while it is under way are given its response.
 * @param fetch the platform's, undici's, or what is called like them
 * @throws IdempotentRequestError where there is no response; whatever the application answers is one, 4xx as well
 */
export function idempotent<I, N extends object, R extends AnswerLike & { clone(): R }>(
  fetch: (input: I, init?: N) => Promise<R>,
  { header = 'Idempotency-Key', ...options }: IdempotentOptions = {},
): (input: I, init?: N & IdempotentInit) => Promise<R> {
  const flights = new Map<string, Join<R>>();

  // oxlint-disable-next-line complexity -- half of it are defaults, and every split is bytes that each page loads
  return async (input, init) => {
    const { operation, ...rest } = (init ?? {}) as Given & IdempotentInit;
    const request = input as Given;
    const method = (rest.method ?? request.method ?? 'GET').toUpperCase();
    if (/^(GET|HEAD|OPTIONS)$/.test(method)) {
      return fetch(input, rest as N);
    }
    if ((rest.body as Partial<ReadableStream> | undefined)?.getReader) {
      throw new TypeError('A stream can be sent only once');
    }

    const headers = new Headers(rest.headers ?? request.headers);
    const given = headers.get(header);
    const copy = rest.body === undefined ? request.clone?.() : undefined;
    const isForm = /^multipart/i.test(headers.get('Content-Type')!);
    const body: unknown = copy ? (isForm ? copy.formData() : copy.arrayBuffer()) : rest.body;
    const print = fingerprint(method, request.url ?? String(input), body);

    const carryOut = async (signal: AbortSignal): Promise<R> => {
      const begun = { fingerprint: await print, body, key: given };
      const key = (await operation?.begin(begun)) ?? given ?? randomKey();
      headers.set(header, key);
      const send = (until: AbortSignal) =>
        fetch((request.clone?.() ?? input) as I, { ...rest, headers, signal: until } as unknown as N);
      // Who fails to forget a key learns what has happened all the same: at worst the next call is a replay.
      const settle = () => operation?.settle(key).catch(() => undefined);
      try {
        const response = await attempt(send, key, signal, options);
        await settle();
        return response;
      } catch (error) {
        // A key that the server has for another request stands for that one, which nobody has asked about.
        const { outcome = 'unknown', problem } = error as Partial<IdempotentRequestError>;
        if (outcome !== 'unknown' && !problem?.type.endsWith('key-reused')) {
          await settle();
        }
        throw error;
      }
    };

    const id = operation ? `:${operation.name}` : (given ?? '');
    let join = flights.get(id);
    if (!join) {
      join = begin(print, carryOut, () => flights.delete(id));
      if (id) {
        flights.set(id, join);
      }
    }
    return join(print, rest.signal ?? request.signal);
  };
}
