import { describe, expect, it } from '@jest/globals';
import { Pool, type PoolClient } from 'pg';
import { ExpiredKeys, type PurgedBatch } from '../../../src/postgres/statements/expired-keys.js';
import type { Queryable } from '../../../src/postgres/queryable.js';
import { claimed, complete, pool, recordFor, rowsOf, session, store, withAStore } from './lab.js';

withAStore();

describe('a purge', () => {
  const queryable = (client: Pool | PoolClient): Queryable => ({
    query: async (sql, parameters) => (await client.query(sql, parameters)).rows,
  });

  /** `k1` has expired first. */
  async function expired(count: number): Promise<void> {
    await insertKeys(`'k' || n`, count, `clock_timestamp() - (1000000 - n) * interval '1 second'`);
  }

  async function insertKeys(key: string, count: number, expiresAt: string): Promise<void> {
    await pool.query(
      `insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id, response_status,
         response_headers, response_body, response_bytes, created_at, expires_at)
       select '', ${key}, decode(repeat('00', 32), 'hex'), 1, 'POST', '/', gen_random_uuid(), 201, '[]', '', 0,
         clock_timestamp() - interval '30 days', ${expiresAt}
       from generate_series(${count}, 1, -1) n`,
    );
  }

  const keys = async () => (await rowsOf()).map((row) => row['key']).toSorted();

  it('deletes the oldest first, no more than it was told, and nothing that is alive', async () => {
    await expired(5);
    await complete('alive');
    const db = queryable(pool);
    expect(await new ExpiredKeys(db).purgeBatch(2)).toMatchObject({ deleted: 2, locked: false });
    expect(await keys()).toEqual(['alive', 'k3', 'k4', 'k5']);
    expect(await new ExpiredKeys(db).purgeBatch(2)).toMatchObject({ deleted: 2, locked: false });
    expect(await new ExpiredKeys(db).purgeBatch(2)).toMatchObject({ deleted: 1, locked: false });
    expect(await new ExpiredKeys(db).purgeBatch(2)).toMatchObject({ deleted: 0, locked: false });
    expect(await keys()).toEqual(['alive']);
  });

  it('passes over rows that somebody has locked', async () => {
    await expired(4);
    const holder = await session();
    await holder.query('begin');
    await holder.query(`select from idempotency_keys where key in ('k1', 'k3') for update`);
    expect(await new ExpiredKeys(queryable(pool)).purgeBatch(10)).toMatchObject({ deleted: 2, locked: false });
    expect(await keys()).toEqual(['k1', 'k3']);
  });

  it('and a record of the same expired key do not get in each other’s way', async () => {
    await expired(1);
    const client = await session();
    const request = await claimed(client, 'k1');
    await new ExpiredKeys(queryable(pool)).purgeBatch(10);
    await store.record(client, recordFor(request), false);
    expect(await new ExpiredKeys(queryable(pool)).purgeBatch(10)).toMatchObject({ deleted: 0, locked: false });
    expect(await keys()).toEqual(['k1']);
  });

  it('leaves the work to the one that is at it', async () => {
    await expired(3);
    const [one, other] = [await session(), await session()];
    await one.query('begin');
    expect(await new ExpiredKeys(queryable(one)).purgeBatch(1)).toMatchObject({ deleted: 1, locked: false });
    expect(await new ExpiredKeys(queryable(other)).purgeBatch(10)).toMatchObject({ deleted: 0, locked: true });
    expect(await new ExpiredKeys(queryable(other), 'infra').purgeBatch(10)).toMatchObject({
      deleted: 0,
      locked: false,
    });
    await one.query('commit');
    expect(await new ExpiredKeys(queryable(other)).purgeBatch(10)).toMatchObject({ deleted: 2, locked: false });
  });

  it('goes on where the batch before it ended, also among rows of one instant, whatever the DateStyle', async () => {
    await expired(5);
    await pool.query(
      `update idempotency_keys set created_at = '2026-01-01Z', expires_at = '2026-01-02 03:04:05.678901Z'`,
    );
    const client = await session();
    await client.query(`set datestyle = 'German, DMY'; set timezone = 'Asia/Kathmandu'`);
    const first = await new ExpiredKeys(queryable(client)).purgeBatch(2);
    expect(first).toEqual({ deleted: 2, locked: false, reached: '2026-01-02 03:04:05.678901Z' });
    const second = await new ExpiredKeys(queryable(client)).purgeBatch(2, first);
    expect(second).toEqual(first);
    const third = await new ExpiredKeys(queryable(client)).purgeBatch(2, second);
    expect(third).toEqual({ ...first, deleted: 1 });
    expect(await new ExpiredKeys(queryable(client)).purgeBatch(2, third)).toEqual({
      deleted: 0,
      locked: false,
      reached: null,
    });
  });

  it('reads each index entry about once, also where a snapshot keeps those of deleted rows in it', async () => {
    await expired(500);
    await pool.query('analyze idempotency_keys');
    const snapshot = await session();
    await snapshot.query('begin isolation level repeatable read; select count(*) from idempotency_keys');
    const client = await session();
    const entriesRead = async (): Promise<number> => {
      // Before PostgreSQL 15 a session tells what it has read at most twice a second.
      await client.query('select pg_stat_force_next_flush()').catch(() => client.query('select pg_sleep(0.6)'));
      await client.query('select pg_stat_clear_snapshot()');
      const { rows } = await client.query<{ read: string }>(
        `select idx_tup_read as read from pg_stat_user_indexes where indexrelname = 'idempotency_keys_expires_at_idx'`,
      );
      return Number(rows[0]!.read);
    };
    await client.query('set enable_seqscan = off; set enable_bitmapscan = off');
    const before = await entriesRead();
    let batch: PurgedBatch | undefined;
    do {
      batch = await new ExpiredKeys(queryable(client)).purgeBatch(10, batch);
    } while (batch.deleted === 10);
    expect(await keys()).toEqual([]);
    const read = (await entriesRead()) - before;
    expect(read).toBeGreaterThanOrEqual(500);
    expect(read).toBeLessThan(1_500); // 13,250 where each batch begins at the start
  });

  it('by two at once deletes every row once', async () => {
    await expired(200);
    const purge = async (client: PoolClient): Promise<number> => {
      let total = 0;
      while ((await keys()).length > 0) total += (await new ExpiredKeys(queryable(client)).purgeBatch(7)).deleted;
      return total;
    };
    const totals = await Promise.all([await session(), await session()].map(purge));
    expect(totals[0]! + totals[1]!).toBe(200);
  });

  interface Plan {
    'Node Type': string;
    'Relation Name'?: string;
    'Index Name'?: string;
    'Actual Loops': number;
    'Actual Rows': number;
    Plans?: Plan[];
  }

  const allNodes = (plan: Plan): Plan[] => [plan, ...(plan.Plans ?? []).flatMap(allNodes)];

  /** The nodes of the executed plan that touch the table. */
  async function purgePlan(client: PoolClient): Promise<Plan[]> {
    let nodes: Plan[] = [];
    const explaining: Queryable = {
      query: async (sql, parameters) => {
        const explain = await client.query<{ 'QUERY PLAN': [{ Plan: Plan }] }>(
          `explain (analyze, format json) ${sql}`,
          parameters,
        );
        nodes = allNodes(explain.rows[0]!['QUERY PLAN'][0].Plan);
        return [{ deleted: 0, locked: false, reached: null }];
      },
    };
    await new ExpiredKeys(explaining).purgeBatch(100);
    return nodes.filter((node) => node['Relation Name'] === 'idempotency_keys');
  }

  it('reads no more than its batch, by the index on the expiry, and nothing at all without its turn', async () => {
    await expired(20_000);
    await insertKeys(`'alive' || n`, 20_000, `clock_timestamp() + interval '1 day'`);
    await pool.query('analyze idempotency_keys');
    const [one, other] = [await session(), await session()];

    await other.query('begin');
    await new ExpiredKeys(queryable(other)).purgeBatch(1);
    const withoutTurn = await purgePlan(one);
    expect(withoutTurn.length).toBeGreaterThanOrEqual(3);
    expect(withoutTurn.filter((node) => node['Actual Rows'] * node['Actual Loops'] > 0)).toEqual([]);
    expect(withoutTurn.find((node) => node['Index Name'] === 'idempotency_keys_expires_at_idx')!['Actual Loops']).toBe(
      0,
    );
    await other.query('rollback');

    const withTurn = await purgePlan(one);
    const scans = withTurn.filter((node) => node['Node Type'].endsWith('Scan'));
    expect(scans.map((node) => [node['Node Type'], node['Index Name'], node['Actual Rows']])).toEqual(
      expect.arrayContaining([
        ['Index Scan', 'idempotency_keys_expires_at_idx', 100],
        ['Tid Scan', undefined, 100],
      ]),
    );
    expect(scans).toHaveLength(2);
  });
});
