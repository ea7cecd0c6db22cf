// All that knows PostgreSQL's wire, and pg's, is in this one file.

import { randomBytes } from 'node:crypto';
import { type PoolClient, Query } from 'pg';
import { hideValues } from './sqlstate.js';

/** One statement of this library: `id` names it among the prepared statements of a connection. */
export interface Statement {
  readonly id: string;
  readonly text: string;
}

/** A statement with its values; text or bytes, since that is what goes over the wire. */
export interface BoundStatement {
  readonly statement: Statement;
  readonly values?: readonly (string | Buffer | null)[];
}

/** Command tag (`INSERT 0 1`, `COMMIT`) and rows of one statement; values in PostgreSQL's text format. */
export interface StatementResult {
  tag: string;
  readonly rows: (string | null)[][];
}

/** The part of pg's Connection that writes extended-query messages (PostgreSQL manual, 54.2.3). */
interface WireConnection {
  stream: { writable: boolean; write(bytes: Buffer): boolean };
  parse(message: { name: string; text: string }): void;
  bind(message: { statement: string; values: readonly (string | Buffer | null)[] }): void;
  execute(message: { portal?: string; rows?: number }): void;
  sync(): void;
}

/** Bigger messages are written by themselves: what is saved by joining small ones is not worth a copy of these. */
const JOINED_UP_TO_BYTES = 16 * 1024;

/**
 * What `send` writes to the connection leaves in one write to the socket, some fifteen small messages together: a write
 * of each, or one writev() of all, costs several times as much.
 */
function writeTogether(connection: WireConnection, send: () => void): void {
  const { stream } = connection;
  let small: Buffer[] = [];
  const flush = (): void => {
    stream.write(Buffer.concat(small));
    small = [];
  };
  const write = (bytes: Buffer): boolean => {
    if (bytes.length > JOINED_UP_TO_BYTES) {
      flush();
      return stream.write(bytes);
    }
    small.push(bytes);
    return true;
  };
  connection.stream = { writable: stream.writable, write };
  try {
    send();
  } finally {
    connection.stream = stream;
  }
  flush();
}

interface PreparedStatements {
  readonly prefix: string;
  readonly names: Set<string>;
  /** The list whose statements all are among the names: not to be gone through again for each batch. */
  all?: readonly Statement[];
}

/**
 * Statements known to a connection. The names carry a random prefix of that connection, so that behind a pooler,
 * where a server session is shared by strangers, a name can be unknown but never stand for somebody else's statement.
 */
const preparedOf = new WeakMap<object, PreparedStatements>();

function preparedStatementsOf(connection: object): PreparedStatements {
  let known = preparedOf.get(connection);
  if (known === undefined) {
    known = { prefix: `idempotency_${randomBytes(6).toString('hex')}_`, names: new Set() };
    preparedOf.set(connection, known);
  }
  return known;
}

/**
 * Every statement a request may need is prepared with its first batch: a pooler that hands the transaction a server
 * session without them then fails the claim, where nothing is lost, and never the record. But only once BEGIN has been
 * executed: to parse a query takes a snapshot, and behind that the isolation level can no longer be set.
 */
function parseOnce(wire: WireConnection, known: PreparedStatements, { id, text }: Statement): void {
  if (!known.names.has(id)) {
    wire.parse({ name: known.prefix + id, text });
    known.names.add(id);
  }
}

type Callback = (error: Error | null, results: StatementResult[]) => void;

/**
 * Several statements in one round trip: parse, bind and execute for each, one sync at the end. An error skips all
 * that follows up to the sync, so a COMMIT at the end is executed only if everything before it succeeded. pg's own
 * queries send a sync each. It extends pg's Query because a client with `pipeline: true` takes nothing else.
 *
 * Tracers hand pg a copy of it (`{ ...query }`), or give it another prototype or callback. So all that pg calls is a
 * property of its own, and a plain function that goes by `this`; otherwise it would be missed when an answer comes,
 * where an exception ends the process. Name and text are for spans alone.
 */
class BatchQuery extends Query {
  readonly name: string;
  readonly text: string;
  readonly results: StatementResult[] = [];
  current: StatementResult = { tag: '', rows: [] };
  override submit = submit;
  handleRowDescription = ignore;
  handleDataRow = handleDataRow;
  handleCommandComplete = handleCommandComplete;
  handleEmptyQuery = ignore;
  handlePortalSuspended = ignore;
  handleCopyInResponse = ignore;
  handleCopyData = ignore;
  handleError = handleError;
  handleReadyForQuery = handleReadyForQuery;

  constructor(
    readonly batch: readonly BoundStatement[],
    readonly prepare: readonly Statement[] | undefined,
    public callback: Callback,
  ) {
    super(''); // pg copies an object, which takes longer than the rest of this
    this.name = `idempotency: ${batch.map(({ statement }) => statement.id).join(', ')}`;
    this.text = batch.map(({ statement }) => statement.text).join(';\n');
  }
}

function submit(this: BatchQuery, connection: unknown): void {
  const wire = connection as WireConnection;
  writeTogether(wire, () => writeBatch(wire, this));
}

function writeBatch(wire: WireConnection, { batch, prepare }: BatchQuery): void {
  const known = prepare === undefined ? undefined : preparedStatementsOf(wire);
  for (const { statement, values = [] } of batch) {
    if (known === undefined) {
      wire.parse({ name: '', text: statement.text });
    } else {
      parseOnce(wire, known, statement);
    }
    wire.bind({ statement: known === undefined ? '' : known.prefix + statement.id, values });
    wire.execute({});
    if (known !== undefined && known.all !== prepare) {
      prepare?.forEach((other) => parseOnce(wire, known, other));
      known.all = prepare;
    }
  }
  wire.sync();
}

function ignore(): void {}

function handleDataRow(this: BatchQuery, message: { fields: (string | null)[] }): void {
  this.current.rows.push(message.fields);
}

function handleCommandComplete(this: BatchQuery, message: { text: string }): void {
  this.current.tag = message.text;
  this.results.push(this.current);
  this.current = { tag: '', rows: [] };
}

function handleError(this: BatchQuery, error: Error): void {
  this.callback(error, this.results);
}

function handleReadyForQuery(this: BatchQuery): void {
  this.callback(null, this.results);
}

const failedStatements = new WeakMap<Error, Statement>();

/**
 * Which statement of a batch the error is about. The table that an error names does not tell: of a partitioned table it
 * is the partition.
 */
export function failedStatement(error: unknown): Statement | undefined {
  return error instanceof Error ? failedStatements.get(error) : undefined;
}

function noteFailure(error: Error, failed: BoundStatement | undefined): void {
  if (failed !== undefined) {
    failedStatements.set(error, failed.statement);
  }
  if (failed?.values !== undefined) {
    hideValues(error);
  }
}

/**
 * Runs the statements in one round trip and answers with a result for each.
 *
 * @param prepare the statements to keep prepared on this connection; `undefined` sends them unnamed
 * @throws pg's `DatabaseError` of the first statement that failed, which {@link failedStatement} tells, or the
 * connection's error. In both cases the client must be destroyed: what was prepared, and the state of the transaction, are no longer known.
 */
export function runBatch(
  client: PoolClient,
  prepare: readonly Statement[] | undefined,
  batch: readonly BoundStatement[],
): Promise<StatementResult[]> {
  return new Promise((resolve, reject) => {
    client.query(
      new BatchQuery(batch, prepare, (error, results) => {
        if (error === null) {
          resolve(results);
        } else {
          noteFailure(error, batch[results.length]);
          reject(error);
        }
      }),
    );
  });
}
