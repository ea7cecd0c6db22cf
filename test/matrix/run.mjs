/**
 * The e2e and integration suites over the versions of Node.js, NestJS, Express, Fastify, TypeORM and PostgreSQL that are
 * supported, each cell in a copy of the repository with packages of its own, all of them from npm.
 *
 *   npm run test:matrix                     all of both suites in every cell
 *   npm run test:matrix -- --reduced        what has differed so far on the oldest and the newest of everything, for CI
 *   npm run test:matrix -- --cells 2,3      these, counted from 1
 *   npm run test:matrix -- --jobs 2         two cells at a time
 *   npm run test:matrix -- test/e2e/wire    these tests
 *   npm run test:matrix -- --faults         the fault suite in the place of tests; behind another `--` what is for it
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, createWriteStream, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { finished } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CELLS, packagesOf, programsOf, REDUCED_CELLS, REDUCED_SPECS } from './cells.mjs';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const SUITES = ['test/integration', 'test/e2e'];
/** More than two only wait for each other's processors. */
const MOST_JOBS = 2;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    reduced: { type: 'boolean' },
    cells: { type: 'string' },
    jobs: { type: 'string', default: '1' },
    faults: { type: 'boolean' },
  },
});
const jobs = Math.min(Math.max(1, Number(values.jobs) || 1), MOST_JOBS);
const specs = positionals.length > 0 ? positionals : values.reduced ? REDUCED_SPECS : SUITES;
const TESTS = [
  '--experimental-vm-modules',
  '--disable-warning=ExperimentalWarning',
  'node_modules/jest/bin/jest.js',
  ...specs,
];
const FAULTS = ['--import', '@swc-node/register/esm-register', 'test/faults/run.ts', ...positionals];
const chosen = choose();
const logs = mkdtempSync(join(tmpdir(), 'nestjs-idempotency-matrix-logs-'));

const waiting = [...chosen.entries()];
const results = [];
await Promise.all(Array.from({ length: jobs }, work));
console.table(results);
process.exitCode = results.every(({ passed }) => passed) ? 0 : 1;

function choose() {
  if (values.cells !== undefined) {
    return values.cells.split(',').map((number) => CELLS[Number(number) - 1] ?? fail(`There is no cell ${number}.`));
  }
  return values.reduced ? REDUCED_CELLS : CELLS;
}

async function work() {
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
    const [place, cell] = next;
    results[place] = { ...cell, ...(await runCell(cell)) };
  }
}

async function runCell(cell) {
  const startedAt = performance.now();
  const name = Object.entries(cell).flat().join('-');
  const folder = mkdtempSync(join(tmpdir(), 'nestjs-idempotency-matrix-'));
  const log = join(logs, `${name}.log`);
  const output = createWriteStream(log);
  say(`${name}: begins; its output is in ${log}`);
  try {
    const programs = await install(folder, cell, output);
    const environment = { PATH: `${programs}${delimiter}${process.env.PATH}`, CI: 'true' };
    const code = await run(join(programs, 'node'), values.faults ? FAULTS : TESTS, folder, output, environment);
    return summary(log, code === 0, startedAt);
  } catch (error) {
    output.write(`${error.stack}\n`);
    return summary(log, false, startedAt);
  } finally {
    output.end();
    await finished(output);
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A copy, not links: what is installed over it must not reach the repository's own packages. Answers with where Node.js is. */
async function install(folder, cell, output) {
  const files = execFileSync('git', ['ls-files', '-z'], { cwd: ROOT, encoding: 'utf8' }).split('\0').filter(Boolean);
  for (const file of files) {
    cpSync(join(ROOT, file), join(folder, file), { recursive: true });
  }
  cpSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'), { recursive: true, verbatimSymlinks: true });
  // The tests of the newest NestJS and TypeORM name these as their peers; what is installed is what is to be tried.
  await npm(folder, output, ['--no-save', '--legacy-peer-deps', ...packagesOf(cell)]);
  const tools = join(folder, 'node_modules', '.matrix');
  mkdirSync(tools);
  const programs = programsOf(cell);
  await npm(tools, output, ['--prefix', tools, programs.node, programs.postgres]);
  const [postgres, node] = [programs.postgres, programs.node].map((name) => name.slice(0, name.lastIndexOf('@')));
  const server = join(folder, 'node_modules', postgres);
  rmSync(server, { recursive: true });
  cpSync(join(tools, 'node_modules', postgres), server, { recursive: true, verbatimSymlinks: true });
  return join(tools, 'node_modules', node, 'bin');
}

async function npm(cwd, output, args) {
  const flags = ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  const code = await run('npm', [...flags, ...args], cwd, output);
  if (code !== 0) throw new Error(`npm install ${args.join(' ')} ended with ${code}.`);
}

async function run(program, args, cwd, output, environment = {}) {
  output.write(`-- ${program} ${args.join(' ')}\n`);
  const child = spawn(program, args, {
    cwd,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
  });
  child.stdout.pipe(output, { end: false });
  child.stderr.pipe(output, { end: false });
  const [code] = await once(child, 'close');
  return code;
}

/** What jest or the fault suite has said at its end, and what has failed. */
function summary(log, passed, startedAt) {
  const text = readFileSync(log, 'utf8');
  const [tests = 'none has run'] = /(?<=^Tests:\s+)\S.*$/m.exec(text) ?? /^violations .*$/m.exec(text) ?? [];
  const seconds = Math.round((performance.now() - startedAt) / 1000);
  say(`${passed ? 'passed' : 'FAILED'} after ${seconds} s: ${tests}`);
  if (!passed) {
    const failures = text.match(/^\s+● .*$|^FAIL .*$/gm) ?? [text.slice(-2000)];
    say([...new Set(failures)].join('\n'));
  }
  return { passed, tests, seconds };
}

function say(text) {
  process.stdout.write(`-- matrix: ${text}\n`);
}

function fail(message) {
  throw new Error(message);
}
