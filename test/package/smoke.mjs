/**
 * Installs the package as npm would publish it into an empty project, once for each major version of NestJS, and uses
 * it there: its declarations under both kinds of module resolution, its command line, and a small application.
 *
 *   node --import @swc-node/register/esm-register test/package/smoke.mjs
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client } from 'pg';
import { startPostgres } from '../../examples/support/postgres-server.js';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const { version, devDependencies, overrides } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));

const NESTJS_MAJORS = [12, 11];

/** Longer than any step takes on a slow machine, shorter than anybody waits for one that hangs. */
const STEP_TIMEOUT_MS = 4 * 60_000;

/** What npm may publish. */
const PUBLISHED = /^(?:dist\/(?:src|migrations)\/.+\.(?:js|d\.ts)|package\.json|README\.md|LICENSE|CHANGELOG\.md)$/;

const folder = mkdtempSync(join(tmpdir(), 'nestjs-idempotency-smoke-'));
const server = process.env.DATABASE_URL
  ? { url: process.env.DATABASE_URL, stop: () => undefined }
  : await startPostgres({ dataDir: join(folder, 'data'), persistent: false, flags: ['-c', 'fsync=off'] });

try {
  const tarball = pack();
  step('publint', bin('publint'), ['run', '--strict', tarball]);
  step('attw', bin('attw'), [tarball, '--profile', 'esm-only']);
  for (const major of NESTJS_MAJORS) {
    await inDatabase(`idempotency_smoke_${process.pid}_${major}`, (url) => useIn(project(major, tarball), url));
  }
} finally {
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
}
say('passed');

function pack() {
  step('pack', 'npm', ['pack', '--loglevel=error', '--pack-destination', folder], { cwd: ROOT });
  return join(folder, `nestjs-idempotency-${version}.tgz`);
}

/**
 * An empty ESM project with the package, its peers, and what it takes to compile against them: our declarations name
 * types of pg, which has none of its own.
 */
function project(major, tarball) {
  const directory = join(folder, `nestjs-${major}`);
  mkdirSync(directory);
  writeJson(join(directory, 'package.json'), { name: 'consumer', private: true, type: 'module', overrides });
  const peers = ['common', 'core', 'platform-express', 'typeorm'].map((name) => `@nestjs/${name}@${major}`);
  const others = ['typeorm', 'pg', 'rxjs', 'reflect-metadata', '@types/node', '@types/pg'].map(
    (name) => `${name}@${devDependencies[name]}`,
  );
  step(`install with NestJS ${major}`, 'npm', ['install', '--loglevel=error', tarball, ...peers, ...others], {
    cwd: directory,
  });
  return directory;
}

function useIn(directory, databaseUrl) {
  const installed = join(directory, 'node_modules', 'nestjs-idempotency');
  const files = readdirSync(installed, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(installed.length + 1));
  const surplus = files.filter((file) => !PUBLISHED.test(file));
  const missing = ['README.md', 'LICENSE', 'CHANGELOG.md'].filter((file) => !files.includes(file));
  if (surplus.length > 0 || missing.length > 0) {
    throw new Error(`The package must not hold: ${surplus.join(', ')}. It lacks: ${missing.join(', ')}.`);
  }

  writeFileSync(join(directory, 'consumer.ts'), consumer(publicNames()));
  for (const [moduleResolution, module] of [
    ['bundler', 'esnext'],
    ['nodenext', 'nodenext'],
  ]) {
    writeJson(join(directory, 'tsconfig.json'), {
      compilerOptions: {
        module,
        moduleResolution,
        target: 'es2023',
        strict: true,
        skipLibCheck: false,
        experimentalDecorators: true,
        emitDecoratorMetadata: true,
        outDir: 'out',
        rootDir: '.',
        types: ['node'],
        noEmit: moduleResolution === 'bundler',
      },
      files: ['consumer.ts'],
    });
    step(`compile under ${moduleResolution}`, bin('tsc'), ['-p', directory]);
  }

  const environment = { cwd: directory, env: { ...process.env, DATABASE_URL: databaseUrl } };
  const cli = (...args) => capture('npx', ['--no-install', 'nestjs-idempotency', ...args], environment);
  expectOutput('--version', cli('--version'), version);
  expectOutput('--help', cli('--help'), 'Usage: nestjs-idempotency <command>');
  expectOutput('migration:run', cli('migration:run'), 'applied CreateIdempotencyKeys');
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

function consumer({ values, types }) {
  return `
import assert from 'node:assert/strict';
import { Controller, Module, Post } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { InjectRepository, TypeOrmModule } from '@nestjs/typeorm';
import { Column, Entity, PrimaryGeneratedColumn, Repository } from 'typeorm';
import * as library from 'nestjs-idempotency';
import { ${values.join(', ')} } from 'nestjs-idempotency';
import type { ${types.join(', ')} } from 'nestjs-idempotency';
import * as migrations from 'nestjs-idempotency/migrations';

assert.deepEqual(Object.keys(library).sort(), ${JSON.stringify(values.toSorted())});
assert.equal(migrations.idempotencyMigrations, idempotencyMigrations);
export const everyValue = [${values.join(', ')}];
export type EveryType = [${types.map((name) => (['Resolver', 'Serialized'].includes(name) ? `${name}<string>` : name)).join(', ')}];

@Entity()
class Payment {
  @PrimaryGeneratedColumn()
  id!: number;

  @Column('text')
  key!: string;
}

@Controller('payments')
class PaymentsController {
  constructor(@InjectRepository(Payment) private readonly payments: Repository<Payment>) {}

  @Post('leased')
  @Idempotent({ mode: 'lease' })
  async createLeased(@IdempotencyContext() context: IdempotencyContext): Promise<{ at: string }> {
    return context.step('take the time', () => ({ at: new Date() }));
  }

  @Post()
  @Idempotent({ ttlMs: 60_000, inFlight: { waitMs: 1_000 } })
  async create(@IdempotencyContext() { key }: IdempotencyContext): Promise<Payment> {
    return this.payments.save({ key });
  }
}

const scope: Resolver<string> = () => '';

@Module({
  imports: [
    TypeOrmModule.forRoot({
      type: 'postgres',
      url: process.env['DATABASE_URL'],
      entities: [Payment],
      migrations: idempotencyMigrationsIn('infra'),
      migrationsRun: true,
      synchronize: true,
    }),
    TypeOrmModule.forFeature([Payment]),
    IdempotencyModule.forRootAsync({ useFactory: (): IdempotencyModuleOptions => ({ scope }) }),
  ],
  controllers: [PaymentsController],
})
class AppModule {}

const app = await NestFactory.create(AppModule, { logger: ['error', 'warn'] });
await app.listen(0, '127.0.0.1');
const post = async (path = '') => {
  const response = await fetch(await app.getUrl() + '/payments' + path, {
    method: 'POST',
    headers: { 'Idempotency-Key': 'abc' + path, 'Connection': 'close' },
  });
  return { status: response.status, body: await response.text(), replayed: response.headers.get('Idempotency-Replayed') };
};
assert.deepEqual(await post(), { status: 201, body: '{"key":"abc","id":1}', replayed: null });
assert.deepEqual(await post(), { status: 201, body: '{"key":"abc","id":1}', replayed: 'true' });
const leased = await post('/leased');
assert.equal(leased.status, 201);
assert.deepEqual(await post('/leased'), { ...leased, replayed: 'true' });
const problem = await fetch(await app.getUrl() + '/payments', { method: 'POST', headers: { 'Connection': 'close' } });
assert.equal(problem.status, 400);
// The Express adapter of NestJS 11 knows no other JSON than application/json.
assert.match(problem.headers.get('Content-Type') ?? '', /^application\\/(?:problem\\+)?json; charset=utf-8$/);
const stored: StoredKey | undefined = await app.get(IdempotencyService).find('abc');
assert.equal(stored?.status, 201);
await app.close();
console.log('replayed');
`;
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
