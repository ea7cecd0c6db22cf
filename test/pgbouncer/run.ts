/**
 * Runs the e2e suite with PgBouncer in transaction mode between the applications and PostgreSQL:
 * `npm run test:pgbouncer [-- <jest arguments>]`. Needs Debian's package `pgbouncer`, or another one on the PATH.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startPostgres } from '../../examples/support/postgres-server.js';
import { runJest } from '../support/run-jest.js';
import { waitFor } from '../support/wait-for.js';

/** Fewer server sessions than the clients of one test: transactions of one client wander between sessions. */
const POOL_SIZE = 8;

async function main(jestArguments: string[]): Promise<number> {
  const postgres = await startPostgres({
    dataDir: join(tmpdir(), `nestjs-idempotency-pgbouncer-${randomUUID()}`),
    persistent: false,
    flags: ['-c', 'max_connections=300', '-c', 'fsync=off', '-c', 'full_page_writes=off'],
  });
  const folder = await mkdtemp(join(tmpdir(), 'pgbouncer-'));
  try {
    const { pooler, port } = await startPgBouncer(folder, new URL(postgres.url));
    try {
      return await runJest(jestArguments, { DATABASE_URL: postgres.url, TEST_PGBOUNCER_PORT: String(port) });
    } finally {
      await stop(pooler);
    }
  } finally {
    await rm(folder, { recursive: true });
    await postgres.stop();
  }
}

async function startPgBouncer(folder: string, server: URL): Promise<{ pooler: ChildProcess; port: number }> {
  const port = await freePort();
  const config = join(folder, 'pgbouncer.ini');
  await writeFile(
    config,
    `[databases]
* = host=127.0.0.1 port=${server.port} user=${server.username} password=${decodeURIComponent(server.password)}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = ${POOL_SIZE}
max_client_conn = 2000
max_db_connections = ${POOL_SIZE}
ignore_startup_parameters = extra_float_digits
server_idle_timeout = 1
log_connections = 0
log_disconnections = 0
log_pooler_errors = 0
`,
  );
  await chmod(folder, 0o755); // PgBouncer, too, refuses to run as root
  const asRoot = process.getuid?.() === 0;
  const pooler = spawn('pgbouncer', ['-q', ...(asRoot ? ['-u', 'postgres'] : []), config], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` },
  });
  const failed = once(pooler, 'error').then(([error]) => {
    throw new Error('PgBouncer cannot be started. Install it by "apt-get install pgbouncer".', { cause: error });
  });
  await Promise.race([
    waitFor(() => isListening(port), { timeoutMs: 10_000, what: 'PgBouncer to listen' }),
    failed as Promise<never>,
  ]);
  return { pooler, port };
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.kill('SIGTERM')) {
    await once(child, 'exit');
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

process.exitCode = await main(process.argv.slice(2));
