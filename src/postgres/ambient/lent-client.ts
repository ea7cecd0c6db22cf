import type { PoolClient } from 'pg';
import type { OpenQueries } from '../open-queries.js';
import { LentStatements } from './lent-statements.js';
import type { Borrower, Lender } from './session.js';

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
 * pg's own client, for what TypeORM has no means of (COPY, a cursor of one's own, other libraries), until the transaction
 * is over. Who is given one by TypeORM may release or even end it; here the connection is in use beyond that, by the
 * record at the latest, and afterwards by another request. The transaction is not its to end, either: one that it begins
 * is a savepoint.
 *
 * @param open learns of what is handed in
 */
export function lend(client: PoolClient, open: OpenQueries, borrower: Borrower, lender: Lender): LentClient {
  const listeners: [event: string, listener: Listener][] = [];
  const statements = new LentStatements(client, open, borrower, lender);
  const own: Record<PropertyKey, unknown> = {
    release: () => undefined,
    end: (callback?: () => void) => (callback === undefined ? Promise.resolve() : process.nextTick(callback)),
    query: (...given: unknown[]) => statements.take(given),
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
