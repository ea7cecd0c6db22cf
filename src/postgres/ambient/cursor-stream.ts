import { Readable } from 'node:stream';
import type { QueryResult } from 'typeorm';
import { fitsCursor } from './sql-statements.js';
import type { Scope } from './transaction-scope.js';
import type { Send } from './waiting-statement.js';

/** Rows that a stream fetches at a time: as many as pg-query-stream does. */
const STREAM_BATCH = 100;

/**
 * Reads by a cursor in SQL. Unlike one of the protocol, which is what pg-query-stream uses, it leaves the connection
 * to other statements between two reads: a loop over the rows may write.
 */
export async function streamIn(
  scope: Scope,
  sql: string,
  parameters: unknown[] | undefined,
  send: Send,
): Promise<Readable> {
  if (!fitsCursor(sql)) {
    const { records } = (await scope.query([sql, parameters, true, send])) as QueryResult<unknown>;
    return Readable.from(records);
  }
  const { transaction } = scope;
  const cursor = transaction.nextName();
  await scope.query([`declare ${cursor} no scroll cursor for ${sql}`, parameters]);
  transaction.openCursors++;
  return Readable.from(rowsOf(scope, cursor)).once('close', () => transaction.openCursors--);
}

async function* rowsOf(scope: Scope, cursor: string): AsyncGenerator<unknown> {
  try {
    let rows: unknown[];
    do {
      rows = (await scope.onCursor(`fetch ${STREAM_BATCH} from ${cursor}`)) as unknown[];
      yield* rows;
    } while (rows.length === STREAM_BATCH);
  } finally {
    await scope.onCursor(`close ${cursor}`).catch(() => undefined);
  }
}
