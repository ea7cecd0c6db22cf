import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startPostgres } from '../examples/support/postgres-server.js';
import { readArguments, USAGE } from './arguments.js';
import { Bench } from './bench.js';
import { buildServers } from './build.js';
import { drawChart } from './chart.js';
import { Databases } from './database.js';
import {
  describeMachine,
  earlierScenarios,
  failedTargets,
  printCaveats,
  printScenario,
  type Report,
  toJson,
  writeResult,
} from './report.js';
import type { ScenarioResult } from './result.js';
import { cpu } from './scenarios/cpu.js';
import { growth } from './scenarios/growth.js';
import { latency } from './scenarios/latency.js';
import { purge } from './scenarios/purge.js';
import { replayCpu } from './scenarios/replay-cpu.js';
import { roundTrips } from './scenarios/round-trips.js';
import { storm } from './scenarios/storm.js';
import { throughput } from './scenarios/throughput.js';
import { unused } from './scenarios/unused.js';
import { VARIANTS } from './variants.js';

const SCENARIOS: Record<number, (bench: Bench) => Promise<ScenarioResult>> = {
  1: roundTrips,
  2: latency,
  3: throughput,
  4: growth,
  5: purge,
  6: storm,
  7: cpu,
  8: unused,
  9: replayCpu,
};

/**
 * As a production server has it, durability above all: fsync and synchronous_commit stay on. Room for the pools of all
 * servers under test, and for the WAL of a bulk load without a checkpoint every few seconds.
 */
const POSTGRES_SETTINGS = { max_connections: '300', shared_buffers: '512MB', max_wal_size: '4GB' };

async function main(argv: string[]): Promise<void> {
  const args = readArguments(argv);
  const { entry } = await buildServers();
  const postgres = await startPostgres({
    dataDir: join(tmpdir(), `nestjs-idempotency-bench-${randomUUID()}`),
    persistent: false,
    flags: Object.entries(POSTGRES_SETTINGS).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  });
  const databases = new Databases(postgres.url);
  const command = ['npm run bench', ...(argv.length > 0 ? ['--', ...argv] : [])].join(' ');
  const machine = { ...describeMachine(await databases.version()), ...POSTGRES_SETTINGS };
  const report: Report = { machine, quick: args.quick, variants: VARIANTS, scenarios: {} };
  report.scenarios = await earlierScenarios(report);

  let current: Bench | undefined;
  const stop = async (): Promise<void> => {
    await current?.end().catch(() => undefined);
    await postgres.stop();
  };
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => void stop().finally(() => process.exit(1)));
  }

  try {
    for (const number of args.only) {
      const began = performance.now();
      current = new Bench(args, databases, postgres.port, entry);
      try {
        const result = await SCENARIOS[number]!(current);
        report.scenarios[number] = { ...result, date: new Date().toISOString(), command };
        printScenario(result);
        await write(report);
      } finally {
        await current.end();
      }
      process.stdout.write(`  (${((performance.now() - began) / 1000).toFixed(0)} s)\n`);
    }
  } finally {
    await stop();
  }
  printCaveats();
  printVerdict(report);
}

/** After each scenario: a run that is cut short has not measured in vain. */
async function write(report: Report): Promise<void> {
  const chart = drawChart(report);
  await writeResult('latest.json', await toJson(report));
  if (chart !== undefined) {
    await writeResult('chart.svg', chart);
  }
}

function printVerdict(report: Report): void {
  const failed = failedTargets(report);
  process.stdout.write(
    failed.length === 0
      ? '\nAll targets reached.\n'
      : `\n${failed.length} targets missed:\n${failed.map(({ name }) => `  ${name}\n`).join('')}`,
  );
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n\n${USAGE}`);
  process.exitCode = 1;
}
