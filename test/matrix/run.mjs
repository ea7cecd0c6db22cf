/**
 * The e2e and integration suites over the versions of TypeORM that are supported beside the one that is developed with,
 * one after the other, each in a copy of the repository with packages of its own.
 *
 *   npm run test:matrix                  all of both suites
 *   npm run test:matrix -- --reduced     what has differed between the versions, for CI
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const TYPEORM = ['0.3.20', '0.3.31'];
const REDUCED = ['test/integration/ambient-transaction', 'test/integration/migrations', 'test/e2e/subscribers'];
const isReduced = process.argv.includes('--reduced');

const results = TYPEORM.map((version) => ({ typeorm: version, ...runOn(version) }));
console.table(results);
process.exitCode = results.every(({ passed }) => passed) ? 0 : 1;

function runOn(version) {
  const startedAt = performance.now();
  const folder = mkdtempSync(join(tmpdir(), 'nestjs-idempotency-matrix-'));
  try {
    const files = execFileSync('git', ['ls-files', '-z'], { cwd: ROOT, encoding: 'utf8' }).split('\0').filter(Boolean);
    for (const file of files) {
      cpSync(join(ROOT, file), join(folder, file), { recursive: true });
    }
    // A copy, not links: what is installed over it must not reach the repository's own packages.
    cpSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'), { recursive: true, verbatimSymlinks: true });
    npm(folder, ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error', `typeorm@${version}`]);
    const { status } = npm(folder, ['test', '--', ...(isReduced ? REDUCED : ['test/integration', 'test/e2e'])]);
    return { passed: status === 0, seconds: Math.round((performance.now() - startedAt) / 1000) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function npm(cwd, args) {
  process.stdout.write(`-- matrix: npm ${args.join(' ')}\n`);
  const bin = dirname(process.execPath);
  return spawnSync('npm', args, {
    cwd,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...process.env, PATH: `${bin}:${process.env.PATH}` },
  });
}
