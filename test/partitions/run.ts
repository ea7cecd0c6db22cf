/**
 * Runs the e2e and integration suites, that of lease mode among them, with the library's tables in HASH partitions, and
 * then short forms of the fault suite: `npm run test:partitions [-- --reduced | <jest arguments>]`. The reduced form is
 * for CI: what lies nearest to the tables, and no faults.
 */
import { runApart } from '../faults/run-apart.js';
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
  'test/integration/docs.spec.ts', // what docs/schema.md says of them
  'purge.spec.ts', // by which index a batch is read; what it deletes of partitions is in table-kinds.spec.ts
  'test/integration/operator-commands.spec.ts', // one of them UNLOGGED, which none that is partitioned can be
  'test/e2e/atomicity/three-services.spec.ts', // in which of them a row is
];

const FAULTS = [
  { flags: ['--scenario', 'transaction', '--seconds', 80, '--round-seconds', 14], mustStrike: /./ },
  {
    flags: ['--scenario', 'lease', '--seconds', 90, '--round-seconds', 8, '--passages', 4, '--postgres-kills', 1],
    mustStrike: /^kills/, // there are too many ways to break a connection for the time
  },
];

async function main(args: string[]): Promise<number> {
  const isReduced = args.includes('--reduced');
  const suites = isReduced ? REDUCED : ['test/e2e', 'test/integration'];
  const own = args.filter((argument) => argument !== '--reduced');
  const code = await runJest(own.length > 0 ? own : [...suites, ...without(ABOUT_PLAIN_TABLES)], {
    TEST_PARTITIONS: String(PARTITIONS),
  });
  if (code !== 0 || isReduced || own.length > 0) return code;
  for (const form of FAULTS) {
    if (!(await keepsEveryPromise(form))) return 1;
  }
  return 0;
}

function without(paths: string[]): string[] {
  return paths.flatMap((path) => ['--testPathIgnorePatterns', path]);
}

/** By the measure of `test/faults/*.long.spec.ts`. */
async function keepsEveryPromise({ flags, mustStrike }: (typeof FAULTS)[number]): Promise<boolean> {
  const { output, summary } = await runApart(['--partitioned', ...flags]);
  process.stdout.write(output);
  return summary.violations.length === 0 && !summary.missed.some((what) => mustStrike.test(what));
}

process.exitCode = await main(process.argv.slice(2));
