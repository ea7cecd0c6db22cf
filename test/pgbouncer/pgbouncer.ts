import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '../support/free-port.js';
import { waitFor } from '../support/wait-for.js';

/** Fewer server sessions than the clients of one test: transactions of one client wander between sessions. */
const POOL_SIZE = 8;

/** Debian's package `pgbouncer`, or another one on the PATH, in front of a server. */
export async function withPgBouncer<T>(
  server: URL,
  mode: 'session' | 'transaction' | 'statement',
  work: (port: number) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'pgbouncer-'));
  try {
    const { pooler, port } = await startPgBouncer(folder, server, mode);
    try {
      return await work(port);
    } finally {
      await stop(pooler);
    }
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function startPgBouncer(
  folder: string,
  server: URL,
  mode: string,
): Promise<{ pooler: ChildProcess; port: number }> {
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
pool_mode = ${mode}
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
