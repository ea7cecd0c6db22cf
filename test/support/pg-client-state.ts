import type { PoolClient } from 'pg';

/** What the client keeps to itself; releases before 8.17 keep it without the underscore. */
interface Inside {
  _activeQuery?: unknown;
  activeQuery?: unknown;
  _queryQueue?: unknown[];
  queryQueue?: unknown[];
}

/** What the client waits for, and what it has not sent yet. */
export function pendingQueries(client: PoolClient): unknown[] {
  const inside = client as unknown as Inside;
  const { _activeQuery: running = '_activeQuery' in inside ? undefined : inside.activeQuery } = inside;
  const { _queryQueue: queue = inside.queryQueue! } = inside;
  return [...(running ? [running] : []), ...queue];
}

/** Whether its session is in a transaction: outside of one each statement begins its own. */
export async function isInTransaction(client: PoolClient): Promise<boolean> {
  await client.query('select 1');
  const { rows } = await client.query<{ inside: boolean }>('select now() <> statement_timestamp() as inside');
  return rows[0]!.inside;
}
