import { setTimeout as delay } from 'node:timers/promises';
import type { Bench, Server } from '../bench.js';
import { uniqueKeys } from '../load.js';
import { post } from '../paced-load.js';
import { ONE_KB } from '../payload.js';
import type { Proxy } from '../proxy/proxy.js';
import { atMost, row, type ScenarioResult } from '../result.js';
import { type Figure, figure } from '../statistics.js';

/** Long enough to tell what a response waited for from what was only sent before it. */
const DELAY_MS = 10;

interface RoundTrips {
  /** Until the response was there. */
  awaited: number;
  /** With what the server does afterwards. */
  inAll: number;
}

/** 1. Round trips to PostgreSQL, counted on the wire. */
export async function roundTrips(bench: Bench): Promise<ScenarioResult> {
  const proxy = await bench.proxy(DELAY_MS);
  const [transaction, floor, library] = (await bench.servers(['transaction', 'floor', 'library'], proxy)) as [
    Server,
    Server,
    Server,
  ];
  // Knows nothing of what the first one has in memory.
  const other = await bench.server('library', { database: library.database });

  const counts = await bench.interleave(
    [
      { name: 'plain transaction', count: () => countOf(proxy, transaction, uniqueKeys.next()) },
      { name: 'floor', count: () => countOf(proxy, floor, uniqueKeys.next()) },
      { name: 'first request', count: () => countOf(proxy, library, uniqueKeys.next()) },
      { name: 'replay, recorded by the same process', count: () => replay(proxy, library, library) },
      { name: 'replay, recorded by another process', count: () => replay(proxy, library, other) },
      { name: '409, running in the same process', count: () => inFlight(proxy, library, library) },
      { name: '409, running in another process', count: () => inFlight(proxy, library, other) },
    ],
    async ({ count }) => count(),
  );

  const plain = Math.max(...[...counts].find(([{ name }]) => name === 'plain transaction')![1].map(awaited));
  const rows = [...counts].flatMap(([{ name }, measured]) => {
    const reached = figure('round trips', measured.map(awaited));
    const rest = row(
      `${name}: in all`,
      figure(
        'round trips',
        measured.map(({ inAll }) => inAll),
      ),
    );
    return [judged(name, reached, plain), rest];
  });
  return { title: '1. Round trips to PostgreSQL', rows };
}

function judged(name: string, reached: Figure, plain: number) {
  if (name === 'first request') {
    return atMost(name, reached, plain);
  }
  return name.startsWith('replay') || name.startsWith('409') ? atMost(name, reached, 1) : row(name, reached);
}

function awaited(count: RoundTrips): number {
  return count.awaited;
}

async function countOf(
  proxy: Proxy,
  server: Server,
  key: string,
  { path = 'operations', expected = 201 } = {},
): Promise<RoundTrips> {
  // TypeORM's pool hands out the connection used last: this one prepares what there is to prepare, that one counts.
  await post(server.url(), undefined, ONE_KB, uniqueKeys.next());
  await settle();
  const before = await proxy.roundTrips();
  const status = await post(server.url(path), undefined, ONE_KB, key);
  const then = await proxy.roundTrips();
  if (status !== expected) {
    throw new Error(`${server.url(path)} answered ${status} instead of ${expected}`);
  }
  await settle();
  return { awaited: then - before, inAll: (await proxy.roundTrips()) - before };
}

async function replay(proxy: Proxy, server: Server, recordedBy: Server): Promise<RoundTrips> {
  const key = uniqueKeys.next();
  await post(recordedBy.url(), undefined, ONE_KB, key);
  return countOf(proxy, server, key);
}

async function inFlight(proxy: Proxy, server: Server, runningAt: Server): Promise<RoundTrips> {
  const key = uniqueKeys.next();
  const running = post(runningAt.url('held'), undefined, ONE_KB, key);
  await settle();
  try {
    return await countOf(proxy, server, key, { path: 'held', expected: 409 });
  } finally {
    await runningAt.ask({ do: 'release' });
    await running;
  }
}

/** What a server still has to do after its answer is done within this, on any machine. */
function settle(): Promise<void> {
  return delay(100);
}
