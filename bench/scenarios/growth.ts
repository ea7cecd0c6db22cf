import type { Bench, Server } from '../bench.js';
import { atMost, row, type Row, type ScenarioResult } from '../result.js';
import { figure, ratio } from '../statistics.js';
import { variant, type VariantId } from '../variants.js';

/** Of the keys that are there already. Small, so that millions of them fit on an ordinary disk. */
const STORED_BODY_BYTES = 64;

/** 4. What many stored keys cost, and what one more does. */
export async function growth(bench: Bench): Promise<ScenarioResult> {
  const costs = await costsOfOne(bench);
  const { rows, series } = await withStored(bench, bench.pick([10_000, 100_000], [10_000, 1_000_000, 10_000_000]));
  return { title: '4. Growth', rows: [...rows, ...costs], series };
}

async function withStored(bench: Bench, counts: number[]): Promise<{ rows: Row[]; series: Record<string, unknown> }> {
  const servers: { server: Server; count: number }[] = [];
  for (const count of counts) {
    const database = await bench.database();
    await database.fill(count, { bodyBytes: STORED_BODY_BYTES, expired: false });
    servers.push({ server: await bench.server('library', { database }), count });
  }

  const seconds = bench.pick(0.4, 5);
  await bench.warmUp(servers.map(({ server }) => server));
  const rows: Row[] = [];
  const series: Record<string, unknown> = {};
  for (const connections of [1, 16]) {
    const results = await bench.interleave(servers, ({ server }) => server.load({ connections, seconds }));
    const p50s = servers.map((item) => results.get(item)!.map(({ p50 }) => p50));
    for (const [index, { count }] of servers.entries()) {
      rows.push(row(`${count.toLocaleString('en')} keys stored, p50 at ${connections}`, figure('ms', p50s[index]!)));
    }
    rows.push(atMost(`most to fewest keys, p50 at ${connections}`, ratio(p50s.at(-1)!, p50s[0]!), 1.15));
    series[connections] = servers.map(({ count }, index) => ({ count, p50: figure('ms', p50s[index]!) }));
  }
  return { rows, series };
}

interface Cost {
  walBytes: number;
  diskBytes: number;
  deadTuples: number;
}

/** Each round in a database of its own, so that all begin with the same empty tables. */
async function costsOfOne(bench: Bench): Promise<Row[]> {
  const ids: VariantId[] = ['transaction', 'floor', 'library'];
  const requests = bench.pick(500, 10_000);
  // They hardly vary: what is counted is bytes, not time.
  const rounds = bench.pick(1, bench.options.rounds);
  const results = await bench.interleave(ids, (id) => costOf(bench, id, requests), rounds);
  const values = (id: VariantId, of: (cost: Cost) => number) => results.get(id)!.map(of);
  const wal = (id: VariantId) => values(id, ({ walBytes }) => walBytes);
  const rows = ids.flatMap((id) => {
    const { label } = variant(id);
    const disk = values(id, ({ diskBytes }) => diskBytes);
    const dead = figure(
      'dead/req',
      values(id, ({ deadTuples }) => deadTuples),
    );
    return [
      row(`${label}: WAL`, figure('bytes/req', wal(id))),
      ...(id === 'transaction' ? [] : [row(`${label}: on disk, response of 1 KB`, figure('bytes/key', disk))]),
      id === 'library' ? atMost(`${label}: dead tuples`, dead, 0) : row(`${label}: dead tuples`, dead),
    ];
  });
  return [...rows, atMost('WAL of nestjs-idempotency to floor', ratio(wal('library'), wal('floor')), 1.1)];
}

async function costOf(bench: Bench, id: VariantId, requests: number): Promise<Cost> {
  const database = await bench.database();
  await database.query('alter table effects set (autovacuum_enabled = false)');
  await database.query('alter table idempotency_keys set (autovacuum_enabled = false)');
  const server = await bench.server(id, { database });
  const warmUp = requests / 10;
  await database.query('checkpoint');
  // The first write to a page after a checkpoint logs all of it: that is behind us when the count begins.
  await server.load({ connections: 16, requests: warmUp });
  const before = await database.number(`pg_current_wal_insert_lsn() - '0/0'::pg_lsn`);
  await server.load({ connections: 16, requests });
  const walBytes = ((await database.number(`pg_current_wal_insert_lsn() - '0/0'::pg_lsn`)) - before) / requests;
  await server.stop(); // a session hands in its statistics when it ends
  await database.query('select pg_stat_force_next_flush()');
  const deadTuples = await database.number('select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables');
  const diskBytes = await database.number(`pg_total_relation_size('idempotency_keys')`);
  return { walBytes, diskBytes: diskBytes / (requests + warmUp), deadTuples: deadTuples / (requests + warmUp) };
}
