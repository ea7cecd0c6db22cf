/**
 * Installs the package as npm would publish it into an empty project, once for each major version of NestJS, and uses
 * it there: its declarations under every kind of module resolution, both of its module systems in one process, a
 * unit test, its command line, and a small application.
 *
 *   npm run test:package             with the newest of the applications that `nest new` makes, and an old TypeScript each
 *   npm run test:package -- --all    with all of them, for a release
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client } from 'pg';
import { startPostgres } from '../../examples/support/postgres-server.js';
import { APPLICATIONS, tryApplication } from './applications.mjs';
import { consumer, OLDER, TWICE } from './consumers.mjs';
import { tellTwoCopies } from './two-copies.mjs';
import { compile, olderTypeScripts } from './typescript.mjs';
import { testPackages, writeUnitTests } from './unit-tests.mjs';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const { version, devDependencies, overrides } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));

/** From the newest of everything to the oldest. */
const CELLS = [
  {
    nestjs: '12',
    typeorm: devDependencies.typeorm,
    pg: devDependencies.pg,
    reflectMetadata: devDependencies['reflect-metadata'],
  },
  { nestjs: '11', typeorm: '0.3.31', pg: '8.15.0', reflectMetadata: '0.2.2' },
  { nestjs: '10', typeorm: '0.3.20', pg: '8.11.0', reflectMetadata: '0.1.13' },
];

/** Longer than any step takes on a slow machine, shorter than anybody waits for one that hangs. */
const STEP_TIMEOUT_MS = 4 * 60_000;

/** What npm may publish. */
const PUBLISHED =
  /^(?:dist\/(?:src|migrations)\/.+\.(?:m?js|d\.m?ts)|dist\/nestjs\.m?js|(?:dist\/)?package\.json|docs\/(?:(?:assets|monitoring)\/)?[^/]+\.(?:md|svg|png|json|ya?ml)|bench\/results\/chart\.svg|README\.md|LICENSE|(?:CHANGELOG|SECURITY)\.md)$/;

const all = process.argv.includes('--all');
const folder = mkdtempSync(join(tmpdir(), 'nestjs-idempotency-smoke-'));
const server = process.env.DATABASE_URL
  ? { url: process.env.DATABASE_URL, stop: () => undefined }
  : await startPostgres({ dataDir: join(folder, 'data'), persistent: false, flags: ['-c', 'fsync=off'] });

try {
  const tarball = pack();
  step('publint', bin('publint'), ['run', '--strict', tarball]);
  step('attw', bin('attw'), [tarball]);
  const compileWithOlder = olderTypeScripts({ folder, all, step });
  const projects = [];
  for (const cell of CELLS) {
    const directory = project(cell, tarball);
    projects.push(directory);
    await inDatabase(`idempotency_smoke_${process.pid}_${cell.nestjs}`, (url) =>
      useIn(directory, url, Number(cell.nestjs), compileWithOlder),
    );
  }
  const applications = all ? APPLICATIONS : APPLICATIONS.slice(0, 1);
  for (const [number, cell] of applications.entries()) {
    await inDatabase(`idempotency_smoke_${process.pid}_application_${number}`, (databaseUrl) =>
      tryApplication(cell, { folder, tarball, databaseUrl, step, capture }),
    );
  }
  const [newest, older] = projects;
  await inDatabase(`idempotency_smoke_${process.pid}_monorepo`, (url) => {
    say('two copies of a package in a monorepo');
    tellTwoCopies({ root: join(folder, 'monorepo'), newest, older, databaseUrl: url });
  });
} finally {
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
}
say('passed');

function pack() {
  step('pack', 'npm', ['pack', '--loglevel=error', '--pack-destination', folder], { cwd: ROOT });
  return join(folder, `nestjs-idempotency-${version}.tgz`);
}

/** An empty ESM project with the package and its peers; our declarations name no types of pg, which has none of its own. */
function project({ nestjs, typeorm, pg, reflectMetadata }, tarball) {
  const directory = join(folder, `nestjs-${nestjs}`);
  mkdirSync(directory);
  writeJson(join(directory, 'package.json'), { name: 'consumer', private: true, type: 'module', overrides });
  const peers = ['common', 'core', 'platform-express', 'typeorm'].map((name) => `@nestjs/${name}@${nestjs}`);
  const others = [
    ...['rxjs', '@types/node'].map((name) => `${name}@${devDependencies[name]}`),
    `typeorm@${typeorm}`,
    `pg@${pg}`,
    `reflect-metadata@${reflectMetadata}`,
    ...testPackages(Number(nestjs)),
  ];
  step(`install with NestJS ${nestjs}`, 'npm', ['install', '--loglevel=error', tarball, ...peers, ...others], {
    cwd: directory,
  });
  return directory;
}

function useIn(directory, databaseUrl, major, compileWithOlder) {
  const installed = join(directory, 'node_modules', 'nestjs-idempotency');
  const files = readdirSync(installed, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(installed.length + 1));
  const surplus = files.filter((file) => !PUBLISHED.test(file));
  const missing = ['README.md', 'LICENSE', 'CHANGELOG.md', 'docs/README.md', 'docs/assets/timelines.svg'].filter(
    (file) => !files.includes(file),
  );
  if (surplus.length > 0 || missing.length > 0) {
    throw new Error(`The package must not hold: ${surplus.join(', ')}. It lacks: ${missing.join(', ')}.`);
  }

  writeFileSync(join(directory, 'consumer.ts'), consumer(publicNames()));
  writeFileSync(join(directory, 'twice.mjs'), TWICE);
  writeFileSync(join(directory, 'older.cts'), OLDER);
  compileWithOlder(directory, major);
  for (const [moduleResolution, options] of [
    ['bundler', { target: 'es2023' }],
    ['node', { ignoreDeprecations: '6.0' }],
    ['nodenext', { target: 'es2023', outDir: 'out', noEmit: false }],
  ]) {
    compile(bin('tsc'), directory, moduleResolution, options, step);
  }

  const environment = { cwd: directory, env: { ...process.env, DATABASE_URL: databaseUrl } };
  const cli = (...args) => capture('npx', ['--no-install', 'nestjs-idempotency', ...args], environment);
  expectOutput('--version', cli('--version'), version);
  expectOutput('--help', cli('--help'), 'Usage: nestjs-idempotency <command>');
  expectOutput('migration:run', cli('migration:run'), 'applied CreateIdempotencyKeys');
  step('unit tests', 'node', writeUnitTests(directory, major), { cwd: join(directory, 'unit') });
  expectOutput('both module systems', capture('node', ['twice.mjs'], environment), 'one instance');
  expectOutput('the application', capture('node', ['out/consumer.js'], environment), 'replayed');
}

/** All that src/index.ts exports, by kind. */
function publicNames() {
  const names = { values: [], types: [] };
  const source = readFileSync(join(ROOT, 'src/index.ts'), 'utf8');
  for (const [, type, list] of source.matchAll(/^export (type )?\{([^}]*)\}/gm)) {
    const found = list.split(',').map((name) => name.trim());
    names[type === undefined ? 'values' : 'types'].push(...found.filter(Boolean));
  }
  return names;
}

async function inDatabase(name, work) {
  const client = new Client(server.url);
  await client.connect();
  try {
    await client.query(`create database ${name}`);
    const url = new URL(server.url);
    url.pathname = name;
    await work(url.href);
    await client.query(`drop database ${name} with (force)`);
  } finally {
    await client.end();
  }
}

/** A program of this repository's dependencies. */
function bin(name) {
  return join(ROOT, 'node_modules', '.bin', name);
}

function step(name, program, args, options = {}) {
  say(name);
  execFileSync(program, args, { stdio: ['ignore', 'inherit', 'inherit'], timeout: STEP_TIMEOUT_MS, ...options });
}

function capture(program, args, options) {
  return execFileSync(program, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: STEP_TIMEOUT_MS,
    ...options,
  });
}

function expectOutput(what, output, expected) {
  say(what);
  if (!output.includes(expected)) {
    throw new Error(`${what} should have printed "${expected}", but printed:\n${output}`);
  }
}

function say(text) {
  process.stdout.write(`-- smoke: ${text}\n`);
}

function writeJson(file, value) {
  writeFileSync(file, JSON.stringify(value, null, 2));
}
