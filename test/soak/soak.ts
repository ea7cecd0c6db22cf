import { setTimeout as delay } from 'node:timers/promises';
import { Random } from '../faults/random.js';
import { waitFor } from '../support/wait-for.js';
import { type Leak, PURGE_INTERVAL_MS, TTL_MS } from './app/protocol.js';
import { SoakDatabase } from './database.js';
import { Instance } from './instance.js';
import { ACCOUNTS, type Tally, Traffic } from './traffic.js';
import { type Finding, judge, type Sample } from './verdict.js';

const ADAPTERS = ['express', 'fastify'] as const;

/** Enough for three thirds with a median each, and not so often that the garbage collections become the load. */
const SAMPLES = 120;
const SAMPLE_INTERVAL_MS = { shortest: 500, longest: 5_000 } as const;

/** After the last request all keys expire, and are purged. */
const DRAIN_MS = TTL_MS + 4 * PURGE_INTERVAL_MS + 10_000;

export interface SoakOptions {
  minutes: number;
  keysPerSecond: number;
  seed: string;
  leak: Leak | undefined;
  log: (line: string) => void;
}

export interface SoakSummary {
  minutes: number;
  keysPerSecond: number;
  seed: string;
  requestsPerSecond: number;
  tally: Tally;
  findings: Finding[];
  /** All that should not be, apart from growth. */
  complaints: string[];
  samples: Sample[];
}

/** Steady traffic on two instances over one database, and whether they and the table stay as they are. */
export async function runSoak(options: SoakOptions): Promise<SoakSummary> {
  const database = await SoakDatabase.start(ACCOUNTS);
  const instances: Instance[] = [];
  try {
    for (const adapter of ADAPTERS) {
      instances.push(await Instance.start(adapter, { adapter, databaseUrl: database.url, leak: options.leak }));
    }
    return await soak(options, database, instances);
  } finally {
    await Promise.all(instances.map((instance) => instance.stop()));
    await database.stop();
  }
}

async function soak(options: SoakOptions, database: SoakDatabase, instances: Instance[]): Promise<SoakSummary> {
  const { minutes, keysPerSecond, seed, log } = options;
  const traffic = new Traffic(instances, new Random(seed), keysPerSecond);
  const samples: Sample[] = [];
  const began = performance.now();
  const durationMs = minutes * 60_000;
  const { shortest, longest } = SAMPLE_INTERVAL_MS;
  const intervalMs = Math.min(longest, Math.max(shortest, durationMs / SAMPLES));

  traffic.start();
  while (performance.now() - began < durationMs) {
    await delay(intervalMs);
    const seconds = (performance.now() - began) / 1000;
    const reports = await Promise.all(instances.map((instance) => instance.report()));
    samples.push({ seconds, instances: reports, ...(await database.look()) });
    if (samples.length % 12 === 0) {
      log(lineOf(samples.at(-1)!, traffic.tally));
    }
  }
  const seconds = (performance.now() - began) / 1000;
  await traffic.stop();

  return {
    minutes,
    keysPerSecond,
    seed,
    requestsPerSecond: Math.round(traffic.tally.requests / seconds),
    tally: traffic.tally,
    findings: judge(samples),
    complaints: [...traffic.unexpected, ...(await complaintsAfter(traffic, database, instances))],
    samples,
  };
}

/** Once no request is under way everything must be given back, the table empty, and the books balanced. */
async function complaintsAfter(traffic: Traffic, database: SoakDatabase, instances: Instance[]): Promise<string[]> {
  const { skipped, keys } = traffic.tally;
  const complaints: string[] =
    skipped > 0 ? [`The machine is too slow for the rate: ${skipped} keys of ${keys + skipped} were left out.`] : [];
  const expectSoon = (what: string, condition: () => Promise<boolean>): Promise<unknown> =>
    waitFor(condition, { what, timeoutMs: DRAIN_MS }).catch((error: Error) => complaints.push(error.message));

  await expectSoon('all connections to be given back', async () => {
    const reports = await Promise.all(instances.map((instance) => instance.report()));
    return reports.every(({ pool }) => pool.idle === pool.total && pool.waiting === 0);
  });
  await expectSoon('all keys to be purged', async () => (await database.look()).rows === 0);
  await expectSoon('all sessions to be idle', async () => (await database.leftovers()).length === 0);
  complaints.push(...(await database.leftovers()));
  const executions = await database.executions();
  if (executions !== traffic.executions) {
    complaints.push(`${executions} executions have committed, ${traffic.executions} were answered for`);
  }
  return complaints;
}

function lineOf({ seconds, instances, sessions, rows, relationBytes }: Sample, { requests }: Tally): string {
  const heaps = instances.map(({ heapUsed }) => (heapUsed / 1e6).toFixed(1)).join(' and ');
  return (
    `${seconds.toFixed(0)} s: ${requests} requests, heaps of ${heaps} MB, ${sessions} sessions, ${rows} rows ` +
    `in ${(relationBytes / 1e6).toFixed(1)} MB`
  );
}
