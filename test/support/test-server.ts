import { randomUUID } from 'node:crypto';
import { accessSync, constants, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { startPostgres, type PostgresServer } from '../../examples/support/postgres-server.js';
import { idempotencyMigrations } from '../../migrations/index.js';
import { addNodes, type CitusKind, turnTablesIntoCitus, WORKERS } from './citus.js';
import { databaseUrl } from './database.js';
import { compilePrograms } from './program.js';
import { turnTablesInto } from './table-kinds.js';

/** Every test connects on its own, and jest runs one worker a core. */
const MAX_CONNECTIONS = 300;

/** Of PostgreSQL. */
const SINCE = { copyStrategy: 15, scramIterations: 16 };

let ownServer: PostgresServer | undefined;
let template: { serverUrl: string; name: string } | undefined;

/** Runs once before all tests: the programs, the server, and a database with the library's tables that the tests' own are copies of. */
export async function startTestServer(): Promise<void> {
  await compilePrograms();
  const serverUrl = process.env['DATABASE_URL'] ?? (await startOwnServer()).url;
  const name = `idempotency_template_${process.pid}`;
  for (const url of [serverUrl, ...WORKERS]) {
    await onServer(url, async (client) => {
      await client.query(`drop database if exists ${name} with (force)`);
      await client.query(`create database ${name}`);
    });
  }
  template = { serverUrl, name };
  if (WORKERS.length > 0) {
    await addNodes(serverUrl, WORKERS, name);
  }

  const dataSource = await new DataSource({
    type: 'postgres',
    url: databaseUrl(serverUrl, name),
    migrations: idempotencyMigrations,
  }).initialize();
  try {
    await dataSource.runMigrations();
  } finally {
    await dataSource.destroy();
  }
  if (process.env['TEST_PARTITIONS'] !== undefined) {
    await turnTablesInto('8 HASH partitions', databaseUrl(serverUrl, name));
  }
  if (WORKERS.length > 0) {
    await turnTablesIntoCitus(process.env['TEST_CITUS_KIND'] as CitusKind, databaseUrl(serverUrl, name));
    await closeTemplate(serverUrl, name);
    process.env['TEST_DATABASE_STRATEGY'] = 'strategy file_copy';
  }
  process.env['TEST_DATABASE_URL'] = serverUrl;
  process.env['TEST_DATABASE_TEMPLATE'] = name;
}

/** Citus keeps a process of its own in each database, which would come back whenever it was ended. */
async function closeTemplate(serverUrl: string, name: string): Promise<void> {
  for (const url of [serverUrl, ...WORKERS]) {
    await onServer(url, async (client) => {
      await client.query(`alter database ${name} allow_connections false`);
      await client.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [name]);
    });
  }
}

export async function stopTestServer(): Promise<void> {
  if (ownServer) return ownServer.stop();
  if (!template) return;
  const { serverUrl, name } = template;
  for (const url of [serverUrl, ...WORKERS]) {
    await onServer(url, (client) => client.query(`drop database if exists ${name} with (force)`));
  }
}

async function startOwnServer(): Promise<PostgresServer> {
  ownServer = await startPostgres({
    dataDir: join(inMemory() ?? tmpdir(), `nestjs-idempotency-test-${randomUUID()}`),
    persistent: false,
    // Nothing in there has to survive a crash of the machine, and the tests run a third faster for it.
    flags: ['-c', `max_connections=${MAX_CONNECTIONS}`, '-c', 'fsync=off', '-c', 'full_page_writes=off'],
  });
  await onServer(ownServer.url, async (client) => {
    const version = await versionOf(client);
    if (version >= SINCE.copyStrategy) {
      // Files are copied in a third of the time that it takes to write them to the log, page by page.
      process.env['TEST_DATABASE_STRATEGY'] = 'strategy file_copy';
    }
    if (version >= SINCE.scramIterations) {
      await cheapenConnections(client, new URL(ownServer!.url).password);
    }
  });
  return ownServer;
}

const GIB = 1024 ** 3;

/** Where Linux keeps files in memory: hundreds of databases are made and dropped there in a third of the kernel's time. */
function inMemory(): string | undefined {
  const directory = '/dev/shm';
  try {
    accessSync(directory, constants.W_OK);
    const { bavail, bsize } = statfsSync(directory);
    return bavail * bsize > 4 * GIB ? directory : undefined;
  } catch {
    return undefined; // there is none
  }
}

/**
 * What makes guessing a password slow is no use for a random one, and takes a fifth of the time of each of thousands of
 * connections.
 */
async function cheapenConnections(client: Client, password: string): Promise<void> {
  await client.query(`set scram_iterations = 1; alter role current_user password ${client.escapeLiteral(password)}`);
}

async function versionOf(client: Client): Promise<number> {
  const { rows } = await client.query<{ server_version: string }>('show server_version');
  return Number.parseInt(rows[0]!.server_version);
}

async function onServer(serverUrl: string, work: (client: Client) => Promise<unknown>): Promise<void> {
  const client = new Client(serverUrl);
  try {
    await client.connect();
    await work(client);
  } catch (error) {
    throw new Error(
      'The tests cannot use the PostgreSQL server of DATABASE_URL, where they must be able to create databases. ' +
        'Start one with "docker run --rm -p 5432:5432 -e POSTGRES_PASSWORD=postgres postgres:18" and set ' +
        'DATABASE_URL=postgres://postgres:postgres@127.0.0.1:5432/postgres, or unset DATABASE_URL: ' +
        `the tests then start one of their own. (${String(error)})`,
      { cause: error },
    );
  } finally {
    await client.end();
  }
}
