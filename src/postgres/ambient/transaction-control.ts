import { transactionControlIn } from './sql-statements.js';

/**
 * Why a statement, in whatever form pg takes it, must not be sent: it would begin or end a transaction. Of what writes its
 * SQL to the wire by itself, pg-cursor and pg-copy-streams keep it as their `text`, pg-query-stream that of its cursor.
 */
export function transactionControlError(query: unknown): Error | undefined {
  const { text, cursor } = Object(query) as { text?: unknown; cursor?: { text?: unknown } };
  const sql = typeof query === 'string' ? query : (text ?? cursor?.text);
  const control = typeof sql === 'string' ? transactionControlIn(sql) : undefined;
  return control === undefined
    ? undefined
    : new Error(
        `"${control}" would end the transaction of this idempotent request. ` +
          'For a nested transaction use DataSource.transaction(), a QueryRunner, or BEGIN by the client that its connect() answers with; ' +
          'the request itself commits when its response is recorded.',
      );
}
