import type { Bench, Server } from '../bench.js';
import { cycledKeys, type LoadResult } from '../load.js';
import { atLeast, row, type Row, type ScenarioResult } from '../result.js';
import { type Figure, figure, ratio } from '../statistics.js';
import { variant, VARIANTS, type VariantId } from '../variants.js';

const CONNECTIONS = [1, 16, 64];
/** The alternatives are measured at one number of connections only, to keep the time within bounds. */
const ALTERNATIVES_AT = 16;
/** How many keys the replays go through: each is replayed now and then, as retries are, not one over and over. */
const REPLAYED_KEYS = { quick: 300, thorough: 2000 };
/** These have no replays. */
const WITHOUT_REPLAYS: VariantId[] = ['plain', 'transaction', 'floor', 'floor-als'];

interface Measured extends LoadResult {
  /** Of the server's process, for each request. */
  cpuUs: number;
}

export interface ThroughputSeries {
  perSecond: Record<string, Record<string, Figure>>;
  p50: Record<string, Record<string, Figure>>;
  replays: Record<string, Figure>;
}

/** 3. Requests per second with application and database on one machine, both busy. */
export async function throughput(bench: Bench): Promise<ScenarioResult> {
  const { servers, missing } = await startAll(bench);
  const seconds = bench.pick(0.35, 4);
  await bench.warmUp(servers);

  const rows = missing;
  const series: ThroughputSeries = { perSecond: {}, p50: {}, replays: {} };
  for (const connections of CONNECTIONS) {
    const measured = connections === ALTERNATIVES_AT ? servers : servers.filter((server) => !isAlternative(server));
    const results = await bench.interleave(measured, (server) => measure(server, { connections, seconds }));
    rows.push(...compare(results, connections));
    series.perSecond[connections] = figures(results, 'req/s', ({ perSecond }) => perSecond);
    series.p50[connections] = figures(results, 'ms', ({ p50 }) => p50);
  }

  const replaying = servers.filter(({ id }) => !WITHOUT_REPLAYS.includes(id));
  const replays = await measureReplays(bench, replaying, seconds);
  rows.push(...compareReplays(replays));
  series.replays = figures(replays, 'req/s', ({ perSecond }) => perSecond);
  return { title: '3. Throughput', rows, series: { ...series } };
}

/** A package that does not run here gets a row that says so. */
async function startAll(bench: Bench): Promise<{ servers: Server[]; missing: Row[] }> {
  const servers: Server[] = [];
  const missing: Row[] = [];
  for (const { id, label } of VARIANTS) {
    try {
      servers.push(await bench.server(id));
    } catch (error) {
      if (!isAlternative({ id })) {
        throw error;
      }
      missing.push(row(label, `not measured: ${(error as Error).message}`));
    }
  }
  return { servers, missing };
}

function isAlternative({ id }: { id: VariantId }): boolean {
  return variant(id).alternative === true;
}

async function measure(server: Server, options: Parameters<Server['load']>[0]): Promise<Measured> {
  const before = (await server.ask({ do: 'cpu' })) as number;
  const result = await server.load(options);
  const after = (await server.ask({ do: 'cpu' })) as number;
  return { ...result, cpuUs: (after - before) / result.requests };
}

async function measureReplays(bench: Bench, servers: Server[], seconds: number): Promise<Map<Server, Measured[]>> {
  const count = bench.pick(REPLAYED_KEYS.quick, REPLAYED_KEYS.thorough);
  const keys = new Map(servers.map((server) => [server, cycledKeys(count)]));
  for (const server of servers) {
    await server.load({ connections: 16, requests: count, keys: keys.get(server)! });
  }
  return bench.interleave(servers, (server) => measure(server, { connections: 16, seconds, keys: keys.get(server)! }));
}

function compare(results: Map<Server, Measured[]>, connections: number): Row[] {
  const rows = listed(results, `first requests at ${connections}`);
  const of = (id: VariantId) => perSecondOf(results, id);
  const library = of('library')!;
  rows.push(
    atLeast(`nestjs-idempotency to floor, at ${connections}`, ratio(library, of('floor')!), 0.95),
    row(`nestjs-idempotency to floor beside an AsyncLocalStorage, at ${connections}`, ratio(library, of('floor-als')!)),
    row(`nestjs-idempotency to plain transaction, at ${connections}`, ratio(library, of('transaction')!)),
    row(`floor to plain transaction, at ${connections}`, ratio(of('floor')!, of('transaction')!)),
  );
  const redis = of('node-idempotency-redis');
  if (redis !== undefined) {
    rows.push(
      atLeast(`nestjs-idempotency to the one on Redis, at ${connections}`, ratio(library, redis), 1),
      row(`floor to the one on Redis, at ${connections}`, ratio(of('floor')!, redis)),
    );
  }
  const postgres = of('backendkit-postgres');
  if (postgres !== undefined) {
    rows.push(
      atLeast(`nestjs-idempotency to the one on PostgreSQL, at ${connections}`, ratio(library, postgres), 2),
      row(`floor to the one on PostgreSQL, at ${connections}`, ratio(of('floor')!, postgres)),
    );
  }
  return rows;
}

function compareReplays(results: Map<Server, Measured[]>): Row[] {
  const library = perSecondOf(results, 'library')!;
  const select = perSecondOf(results, 'select')!;
  return [
    ...listed(results, 'replays at 16'),
    atLeast('replays of nestjs-idempotency to the SELECT handler, at 16', ratio(library, select), 1),
  ];
}

function listed(results: Map<Server, Measured[]>, what: string): Row[] {
  return [...results].flatMap(([{ id }, rounds]) => {
    const { label } = variant(id);
    const cpu = rounds.map(({ cpuUs }) => cpuUs);
    const perSecond = rounds.map((round) => round.perSecond);
    return [row(`${label}, ${what}`, figure('req/s', perSecond)), row(`${label}, ${what}: CPU`, figure('µs/req', cpu))];
  });
}

function perSecondOf(results: Map<Server, Measured[]>, id: VariantId): number[] | undefined {
  return [...results].find(([server]) => server.id === id)?.[1].map(({ perSecond }) => perSecond);
}

function figures(
  results: Map<Server, Measured[]>,
  unit: string,
  of: (measured: Measured) => number,
): Record<string, Figure> {
  return Object.fromEntries([...results].map(([{ id }, rounds]) => [id, figure(unit, rounds.map(of))]));
}
