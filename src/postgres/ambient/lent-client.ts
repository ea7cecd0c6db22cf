import type { PoolClient } from 'pg';
import type { OpenQueries } from '../open-queries.js';
import { transactionControlError } from './transaction-control.js';

type Listener = (...given: unknown[]) => void;

/** The methods of an EventEmitter that would leave a listener behind on the pooled connection. */
const ADDS_LISTENER = new Set<PropertyKey>(['on', 'once', 'addListener', 'prependListener', 'prependOnceListener']);

/** What code may do with pg's client that works in a transaction of this library. */
export interface LentClient {
  readonly client: PoolClient;
  /** From here on every statement fails. */
  takeBack(): void;
}

/**
 * pg's own client, for what TypeORM has no means of (COPY, a cursor of one's own), until the transaction is over. Who is
 * given one by TypeORM may release or even end it; here the connection is in use beyond that, by the record at the
 * latest, and afterwards by another request. The transaction is not its to end, either.
 *
 * @param open learns of what is handed in
 * @param refusal says why a statement that comes when the transaction is over cannot run
 */
export function lend(client: PoolClient, open: OpenQueries, refusal: () => Error | undefined): LentClient {
  const listeners: [event: string, listener: Listener][] = [];
  const own: Record<PropertyKey, unknown> = {
    release: () => undefined,
    end: (callback?: () => void) => (callback === undefined ? Promise.resolve() : process.nextTick(callback)),
    query: (...given: unknown[]) => {
      const error = refusal() ?? transactionControlError(given[0]);
      if (error !== undefined) {
        return refuse(error, given);
      }
      open.note(given[0]);
      return (client.query as (...given: unknown[]) => unknown)(...given);
    },
  };
  const proxy: PoolClient = new Proxy(client, {
    get(target, property) {
      if (Object.hasOwn(own, property)) {
        return own[property];
      }
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== 'function') {
        return value;
      }
      return (...given: unknown[]): unknown => {
        if (ADDS_LISTENER.has(property)) {
          listeners.push(given as [string, Listener]);
        }
        const result: unknown = Reflect.apply(value, target, given);
        return result === target ? proxy : result;
      };
    },
  });
  return {
    client: proxy,
    takeBack: () => listeners.forEach(([event, listener]) => client.off(event as 'error', listener)),
  };
}

/** In each of the ways in which pg tells of an error: by a callback, by the query object, by a promise. */
function refuse(error: Error, [query, ...others]: unknown[]): unknown {
  const object = Object(query) as { handleError?: unknown; callback?: unknown };
  const callback = object.callback ?? others.find((given) => typeof given === 'function');
  const { handleError } = object;
  if (typeof handleError === 'function') {
    object.callback = callback;
    process.nextTick(() => void Reflect.apply(handleError, query, [error]));
    return query;
  }
  if (typeof callback === 'function') {
    process.nextTick(() => void Reflect.apply(callback, undefined, [error]));
    return undefined;
  }
  return Promise.reject(error);
}
