import type { Bench, Server } from '../bench.js';
import { atMost, row, type Row, type ScenarioResult } from '../result.js';
import { figure, ratio } from '../statistics.js';
import { variant } from '../variants.js';

const DELAY_MS = 1;

/** 2. Latency where the network between application and database takes its time. */
export async function latency(bench: Bench): Promise<ScenarioResult> {
  const proxy = await bench.proxy(DELAY_MS);
  const servers = await bench.servers(['transaction', 'floor', 'library', 'select'], proxy);
  const seconds = bench.pick(0.4, 4);
  await bench.warmUp(servers);

  const rows: Row[] = [];
  const series: Record<string, unknown> = {};
  for (const connections of [1, 16]) {
    const results = await bench.interleave(servers, (server) => server.load({ connections, seconds }));
    const p50s = (server: Server) => results.get(server)!.map(({ p50 }) => p50);
    const [transaction, floor, library] = servers as [Server, Server, Server];
    for (const server of servers) {
      rows.push(row(`${variant(server.id).label}, p50 at ${connections}`, figure('ms', p50s(server))));
    }
    rows.push(
      atMost(
        `first request to plain transaction, p50 at ${connections}`,
        ratio(p50s(library), p50s(transaction)),
        1.05,
      ),
      row(`first request to floor, p50 at ${connections}`, ratio(p50s(library), p50s(floor))),
    );
    series[connections] = Object.fromEntries(servers.map((server) => [server.id, figure('ms', p50s(server))]));
  }
  return { title: `2. Latency with ${DELAY_MS} ms added each way`, rows, series };
}
