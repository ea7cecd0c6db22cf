import type { PoolClient } from 'pg';
import { type OpenQueries, untilAnswered } from '../open-queries.js';
import type { Borrower, Lender } from './session.js';
import { type Boundary, boundaryIn } from './transaction-boundary.js';
import { transactionControlError } from './transaction-control.js';

/** What `query()` was called with. */
type Given = unknown[];

/** What pg makes of a statement as it is handed in. */
interface QueryObject {
  text?: unknown;
  submit?: unknown;
  callback?: unknown;
  handleError?: unknown;
  handleReadyForQuery?: unknown;
}

const COMMAND = { begin: 'BEGIN', commit: 'COMMIT', 'roll back': 'ROLLBACK' } as const;

/** What is handed to pg's own client in a transaction of this library, and how its caller is told of what came of it. */
export class LentStatements {
  /** The last of what begins or ends a transaction, and of what waits behind it. */
  private last: Promise<unknown> | undefined;

  constructor(
    private readonly client: PoolClient,
    private readonly open: OpenQueries,
    private readonly borrower: Borrower,
    private readonly lender: Lender,
  ) {}

  take(given: Given): unknown {
    try {
      this.assertOpen();
      const boundary = boundaryOf(given[0]);
      if (boundary !== undefined) {
        return tell(
          this.inOrder(() => this.pass(boundary, given)),
          given,
        );
      }
      const control = transactionControlError(given[0]);
      if (control !== undefined) {
        return refuse(control, given);
      }
      return this.sendInTurn(given);
    } catch (error) {
      return refuse(error as Error, given);
    }
  }

  /** Never within a nested transaction of others: what is theirs to undo, this is not. */
  private sendInTurn(given: Given): unknown {
    const send = async (): Promise<unknown> => {
      this.assertOpen();
      this.open.note(given[0]);
      return (this.client.query as (...given: Given) => unknown)(...given);
    };
    const inTurn = (): Promise<unknown> => (this.lender.isCommitting ? send() : this.borrower.inTurn(send));
    const sent = this.last === undefined ? inTurn() : this.inOrder(inTurn);
    const [query] = given;
    const isSubmitted = typeof (Object(query) as QueryObject).submit === 'function';
    if (!isSubmitted && callbackOf(given) === undefined) {
      return sent;
    }
    sent.catch((error: unknown) => refuse(error as Error, given));
    return isSubmitted ? query : undefined;
  }

  private async pass(boundary: Boundary, given: Given): Promise<object> {
    const { borrower } = this;
    if ('begins' in boundary) {
      // A second BEGIN changes nothing in PostgreSQL.
      await (borrower.isInOwnTransaction || borrower.beginBySql(boundary.begins));
      return resultOf('begin');
    }
    if (!borrower.isInOwnTransaction) {
      throw transactionControlError(given[0])!;
    }
    await untilAnswered(this.client); // a cursor has its turn only until it is submitted
    return resultOf(await borrower.endBySql(boundary.ends));
  }

  /** At once where nothing waits: only then is what its caller does next known to be in the transaction that it begins. */
  private inOrder<T>(work: () => Promise<T>): Promise<T> {
    const result = this.last === undefined ? work() : this.last.then(work);
    const isLast = (): void => {
      if (this.last === done) {
        this.last = undefined;
      }
    };
    const done: Promise<unknown> = result.then(isLast, isLast);
    this.last = done;
    return result;
  }

  private assertOpen(): void {
    const error = this.lender.refusal();
    if (error !== undefined) {
      throw error;
    }
  }
}

/** Only where pg itself makes a query of it: nothing is to be read from a BEGIN. */
function boundaryOf(query: unknown): Boundary | undefined {
  const object = Object(query) as QueryObject;
  const sql = typeof query === 'string' ? query : object.text;
  const isPgs = typeof object.submit !== 'function' || 'callback' in object;
  return typeof sql === 'string' && isPgs ? boundaryIn(sql) : undefined;
}

function resultOf(passed: keyof typeof COMMAND): object {
  return { command: COMMAND[passed], rowCount: null, oid: null, rows: [], fields: [] };
}

function callbackOf([query, ...others]: Given): unknown {
  return (Object(query) as QueryObject).callback ?? others.find((given) => typeof given === 'function');
}

/** In each of the ways in which pg tells of a result: by a callback, by the query object, by a promise. */
function tell(result: Promise<object>, given: Given): unknown {
  const [query] = given;
  const callback = callbackOf(given);
  const { handleReadyForQuery } = Object(query) as QueryObject;
  const refused = (error: unknown): void => void refuse(error as Error, given);
  if (typeof handleReadyForQuery === 'function') {
    Object.assign(query as object, { callback });
    result.then(() => process.nextTick(() => void Reflect.apply(handleReadyForQuery, query, [])), refused);
    return query;
  }
  if (typeof callback === 'function') {
    result.then((answer) => process.nextTick(() => void Reflect.apply(callback, undefined, [null, answer])), refused);
    return undefined;
  }
  return result;
}

/** The same of an error. */
function refuse(error: Error, given: Given): unknown {
  const [query] = given;
  const object = Object(query) as QueryObject;
  const callback = callbackOf(given);
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
