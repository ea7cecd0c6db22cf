import type { Bench, Server } from '../bench.js';
import { cycledKeys } from '../load.js';
import { ONE_KB } from '../payload.js';
import { row, type ScenarioResult } from '../result.js';
import { variant } from '../variants.js';
import { breakdown, profile } from './cpu.js';

const REPLAYED_KEYS = 200;

/** 9. Where the time of a replay goes, beside a handler that does one SELECT. */
export async function replayCpu(bench: Bench): Promise<ScenarioResult> {
  const servers = await bench.servers(['library', 'select']);
  const requests = bench.pick(300, 5000);
  const keys = new Map(servers.map((server) => [server, cycledKeys(REPLAYED_KEYS)]));
  for (const server of servers) {
    await server.load({ connections: 16, requests, keys: keys.get(server)! });
  }
  const results = await bench.interleave(servers, (server) => profile(server, ONE_KB, requests, keys.get(server)));
  const rows = servers.map((server) => {
    const owners = results.get(server)!.map(({ byOwner }) => byOwner);
    return row(`${variant(server.id).label}, µs by owner`, breakdown(owners, Infinity));
  });
  const [library] = servers as [Server, Server];
  const functions = results.get(library)!.map(({ byFunction }) => byFunction);
  rows.push(row(`the library's functions, µs`, breakdown(functions, 12)));
  const series = Object.fromEntries([...results].map(([{ id }, shares]) => [id, shares]));
  return { title: '9. CPU of a replay with 1 KB', rows, series };
}
