/**
 * Runs the e2e and integration suites, that of lease mode among them, with the library's tables in HASH partitions, and
 * then short forms of the fault suite: `npm run test:partitions [-- --reduced | <jest arguments>]`. The reduced form is
 * for CI: what lies nearest to the tables, and no faults.
 */
import { spawnSync } from 'node:child_process';
import { PARTITIONS } from '../support/table-kinds.js';
import { runJest } from '../support/run-jest.js';

const REDUCED = [
  'test/integration/key-store',
  'test/integration/lease-store.spec.ts',
  'test/e2e/wire/retry.spec.ts',
  'test/e2e/wire/expiry.spec.ts',
  'test/e2e/lease/resumption.spec.ts',
];

/** What is about plain tables: how they are made, what plan PostgreSQL has for them, or other kinds beside them. */
const ABOUT_PLAIN_TABLES = [
  'test/integration/migrations',
  'test/integration/key-tables.spec.ts',
  'table-kinds.spec.ts',
  'test/integration/cli',
  'purge.spec.ts', // by which index a batch is read; what it deletes of partitions is in table-kinds.spec.ts
  'test/integration/operator-commands.spec.ts', // one of them UNLOGGED, which none that is partitioned can be
  'test/e2e/atomicity/three-services.spec.ts', // in which of them a row is
];

const FAULTS = [
  ['--scenario', 'transaction', '--seconds', '80', '--round-seconds', '14'],
  ['--scenario', 'lease', '--seconds', '90', '--round-seconds', '8', '--passages', '4', '--postgres-kills', '1'],
];

async function main(args: string[]): Promise<number> {
  const isReduced = args.includes('--reduced');
  const suites = isReduced ? REDUCED : ['test/e2e', 'test/integration'];
  const own = args.filter((argument) => argument !== '--reduced');
  const code = await runJest(own.length > 0 ? own : [...suites, ...without(ABOUT_PLAIN_TABLES)], {
    TEST_PARTITIONS: String(PARTITIONS),
  });
  if (code !== 0 || isReduced || own.length > 0) return code;
  return FAULTS.every((flags) => runFaults(flags) === 0) ? 0 : 1;
}

function without(paths: string[]): string[] {
  return paths.flatMap((path) => ['--testPathIgnorePatterns', path]);
}

function runFaults(flags: string[]): number | null {
  const suite = ['--import', '@swc-node/register/esm-register', 'test/faults/run.ts', '--partitioned', ...flags];
  return spawnSync(process.execPath, suite, { stdio: ['ignore', 'inherit', 'inherit'] }).status;
}

process.exitCode = await main(process.argv.slice(2));
