import type { Bench } from '../bench.js';
import { row, type Row, type ScenarioResult } from '../result.js';
import { type Figure, figure, ratio } from '../statistics.js';

/** A median this near to 1 is no difference, however narrow the spread happens to be. */
const NOISE = 0.02;

/** 8. What the module costs a route that does not use it. */
export async function unused(bench: Bench): Promise<ScenarioResult> {
  const [plain, transaction, withModule] = await bench.servers(['plain', 'transaction', 'library']);
  const seconds = bench.pick(0.4, 5);
  const load = (server = withModule!, path?: string) => server.load({ connections: 16, seconds }, path);
  const routes = [
    { name: 'plain handler, without the module', run: () => load(plain) },
    { name: 'plain handler, with the module', run: () => load(withModule, 'undecorated/plain') },
    { name: 'transaction, without the module', run: () => load(transaction) },
    { name: 'transaction, with the module', run: () => load(withModule, 'undecorated/transaction') },
  ] as const;
  await bench.warmUp([plain!, transaction!]);
  await bench.warmUp([withModule!], 'undecorated/plain');
  await bench.warmUp([withModule!], 'undecorated/transaction');
  const results = await bench.interleave(routes, ({ run }) => run());
  const perSecond = routes.map((route) => results.get(route)!.map((round) => round.perSecond));
  const rows = routes.map(({ name }, index) => row(name, figure('req/s', perSecond[index]!)));
  rows.push(
    withinNoise('plain handler, with to without', ratio(perSecond[1]!, perSecond[0]!)),
    withinNoise('transaction, with to without', ratio(perSecond[3]!, perSecond[2]!)),
  );
  return { title: '8. Cost when not used', rows };
}

function withinNoise(name: string, reached: Figure): Row {
  const pass = reached.max >= 1 || reached.median >= 1 - NOISE;
  return { name, reached, target: `1 within the spread, or ≥ ${1 - NOISE}×`, pass };
}
