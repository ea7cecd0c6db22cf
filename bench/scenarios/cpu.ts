import type { Bench, Server } from '../bench.js';
import { type KeySource, uniqueKeys } from '../load.js';
import { jsonBody } from '../payload.js';
import { atMost, row, type Row, type ScenarioResult } from '../result.js';
import type { ProfileShares } from '../servers/protocol.js';
import { figure, median, ratio } from '../statistics.js';
import { variant } from '../variants.js';

/** Fine enough for microseconds over hundreds of requests, coarse enough not to be what is measured. */
const SAMPLING_INTERVAL_US = 200;

/** "Linear": twice as much per byte at most, from one size to the next. */
const LINEAR = 2;

/** 7. CPU time of the library's own code in a first request, by profile. */
export async function cpu(bench: Bench): Promise<ScenarioResult> {
  const servers = await bench.servers(['library', 'floor']);
  await bench.warmUp(servers);
  const sizes = [
    { name: '1 KB', bytes: 1024, requests: bench.pick(300, 5000) },
    { name: '64 KiB', bytes: 64 * 1024, requests: bench.pick(30, 500) },
    { name: '1 MiB', bytes: 1024 * 1024, requests: bench.pick(5, 60) },
  ];
  const rows: Row[] = [];
  const own: number[][] = [];
  const series: Record<string, unknown> = {};
  for (const { name, bytes, requests } of sizes) {
    const body = jsonBody(bytes);
    for (const server of servers) {
      await server.load({ connections: 1, requests, body });
    }
    const results = await bench.interleave(servers, (server) => profile(server, body, requests));
    const [library] = servers as [Server, Server];
    const micros = results.get(library)!.map((shares) => shares.byOwner['library'] ?? 0);
    own.push(micros);
    const reached = figure('µs/req', micros);
    const label = `${name}: the library's own code`;
    rows.push(bytes === 1024 ? atMost(label, reached, 60) : row(label, reached));
    for (const server of servers) {
      const owners = results.get(server)!.map(({ byOwner }) => byOwner);
      rows.push(row(`${name}: ${variant(server.id).label}, µs by owner`, breakdown(owners, Infinity)));
    }
    const functions = results.get(library)!.map(({ byFunction }) => byFunction);
    rows.push(row(`${name}: the library's functions, µs`, breakdown(functions, 8)));
    series[name] = Object.fromEntries([...results].map(([{ id }, shares]) => [id, shares]));
  }
  for (const index of [1, 2]) {
    const factor = sizes[index]!.bytes / sizes[index - 1]!.bytes;
    const growth = ratio(
      own[index]!.map((micros) => micros / factor),
      own[index - 1]!,
    );
    const name = `own code for each byte, ${sizes[index]!.name} to ${sizes[index - 1]!.name}`;
    rows.push(atMost(name, growth, LINEAR));
  }
  return { title: '7. CPU of a first request', rows, series };
}

/** Microseconds for each request. */
export async function profile(
  server: Server,
  body: string,
  requests: number,
  keys: KeySource = uniqueKeys,
): Promise<ProfileShares> {
  await server.ask({ do: 'start profile', intervalUs: SAMPLING_INTERVAL_US });
  await server.load({ connections: 1, requests, body, keys });
  const { byOwner, byFunction } = (await server.ask({ do: 'stop profile' })) as ProfileShares;
  const each = (sums: Record<string, number>) =>
    Object.fromEntries(Object.entries(sums).map(([name, micros]) => [name, Number((micros / requests).toFixed(2))]));
  return { byOwner: each(byOwner), byFunction: each(byFunction) };
}

/** The largest of them, by the median of all rounds. */
export function breakdown(rounds: Record<string, number>[], most: number): string {
  const names = [...new Set(rounds.flatMap((sums) => Object.keys(sums)))].filter((name) => name !== 'idle');
  return names
    .map((name) => ({ name, micros: median(rounds.map((sums) => sums[name] ?? 0)) }))
    .toSorted((a, b) => b.micros - a.micros)
    .slice(0, most)
    .map(({ name, micros }) => `${name} ${micros.toFixed(1)}`)
    .join(', ');
}
