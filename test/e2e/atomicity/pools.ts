import type { Pool, PoolClient } from 'pg';
import { pendingQueries } from '../../support/pg-client-state.js';
import type { TestApp } from '../../support/test-app.js';

/** Statements that were handed to a connection before the one before was answered: pg warns of them, pg 9 refuses them. */
export function watchOverlaps(test: TestApp): string[] {
  const overlaps: string[] = [];
  const seen = new WeakSet<PoolClient>();
  const watch = (client: PoolClient) => {
    if (seen.has(client)) return;
    seen.add(client);
    const query = client.query.bind(client) as (...given: unknown[]) => unknown;
    Object.assign(client, {
      query: (...given: unknown[]) => {
        const [pending] = pendingQueries(client);
        if (pending !== undefined) overlaps.push(`${textOf(given[0])} behind ${textOf(pending)}`);
        return query(...given);
      },
    });
  };
  poolsOf(test).forEach((pool) => pool.on('acquire', watch));
  return overlaps;
}

function textOf(query: unknown): string {
  return typeof query === 'string' ? query : String((query as { text?: unknown }).text);
}

export function poolsOf({ instances }: TestApp): Pool[] {
  return instances.map(({ dataSource }) => (dataSource.driver as unknown as { master: Pool }).master);
}
