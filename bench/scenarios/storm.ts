import { setTimeout as delay } from 'node:timers/promises';
import type { Bench } from '../bench.js';
import { cycledKeys, type KeySource, type LoadResult } from '../load.js';
import { post } from '../paced-load.js';
import { ONE_KB } from '../payload.js';
import { atLeast, atMost, row, type Row, type ScenarioResult } from '../result.js';
import { figure, ratio } from '../statistics.js';

const CONNECTIONS = 64;

/** The running requests outlast all rounds. */
const HELD_MS = 30 * 60_000;

/** 6. Ten thousand duplicates of one request at once. */
export async function storm(bench: Bench): Promise<ScenarioResult> {
  const requests = bench.pick(1000, 10_000);
  const select = await bench.server('select');
  const library = await bench.server('library');
  const other = await bench.server('library', { database: library.database });

  const completed = cycledKeys(1);
  const running = cycledKeys(1);
  const elsewhere = cycledKeys(1);
  await post(library.url(), undefined, ONE_KB, completed.next());
  const duplicates = (keys: KeySource, status: number, path: string) =>
    library.load({ connections: CONNECTIONS, requests, keys, status }, path);
  const held = [
    post(library.url('held'), undefined, ONE_KB, running.next(), HELD_MS),
    post(other.url('held'), undefined, ONE_KB, elsewhere.next(), HELD_MS),
  ];
  await delay(200);

  const yardstick = { name: 'SELECT handler', run: () => select.load({ connections: CONNECTIONS, requests }) };
  const storms = [
    { name: 'one completed key', run: () => duplicates(completed, 201, 'operations') },
    { name: 'one running key (409), in the same process', run: () => duplicates(running, 409, 'held') },
    { name: 'one running key (409), in another process', run: () => duplicates(elsewhere, 409, 'held') },
  ];
  for (const { run } of [yardstick, ...storms]) {
    await run();
  }
  const results = await bench.interleave([yardstick, ...storms], ({ run }) => run());
  await Promise.all([library.ask({ do: 'release' }), other.ask({ do: 'release' })]);
  await Promise.all(held);

  const base = results.get(yardstick)!;
  const rows = [...results].flatMap(([{ name }, measured]) => plainRows(name, measured));
  rows.push(...storms.flatMap((item) => comparedRows(item.name, results.get(item)!, base)));
  return { title: `6. Storm: ${requests.toLocaleString('en')} requests over ${CONNECTIONS} connections`, rows };
}

function perSecondOf(results: LoadResult[]): number[] {
  return results.map(({ perSecond }) => perSecond);
}

function p99Of(results: LoadResult[]): number[] {
  return results.map(({ p99 }) => p99);
}

function plainRows(name: string, results: LoadResult[]): Row[] {
  return [row(name, figure('req/s', perSecondOf(results))), row(`${name}, p99`, figure('ms', p99Of(results)))];
}

function comparedRows(name: string, results: LoadResult[], base: LoadResult[]): Row[] {
  return [
    atLeast(`${name}: throughput to the SELECT handler's`, ratio(perSecondOf(results), perSecondOf(base)), 1.2),
    atMost(`${name}: p99 to the SELECT handler's`, ratio(p99Of(results), p99Of(base)), 1),
  ];
}
