import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { serverAccount, type Account } from './postgres-account.js';
import { installBinaries } from './postgres-binaries.js';
import { ENVIRONMENT, ensureCluster, reachableDirectory } from './postgres-cluster.js';
import { freeDataDirectory, identifyingArguments, inUse, readLock, SHUTDOWN_TIMEOUT_MS } from './postgres-lock.js';

export interface PostgresServer {
  /** Of the database `postgres`, as superuser. */
  url: string;
  port: number;
  /** Where the data is: not the wanted directory when root starts the server and its user cannot reach that one. */
  dataDir: string;
  pid: number;
  /** Ends all connections, waits for the server's end and removes the data unless it is persistent. */
  stop(): Promise<void>;
}

export interface PostgresServerOptions {
  dataDir: string;
  /** Keep the data for the next start. Otherwise `dataDir` is a directory that does not exist yet, and goes in the end. */
  persistent: boolean;
  /** More arguments of `postgres`, such as `-c fsync=off`. */
  flags?: string[];
}

/** Recovery after a crash comes before "ready". A minute is far beyond that of a database of this size. */
const START_TIMEOUT_MS = 60_000;

/**
 * Starts a real PostgreSQL on a free port of 127.0.0.1. It ends with this process, however this process ends, and does
 * not keep it running.
 */
export async function startPostgres(options: PostgresServerOptions): Promise<PostgresServer> {
  const account = await serverAccount();
  const { initdb, postgres, major } = installBinaries();
  const dataDir = reachableDirectory(options.dataDir, account);
  const password = await ensureCluster(dataDir, { initdb, major, account, persistent: options.persistent });
  await freeDataDirectory(dataDir);

  const { server, port, pid } = await launch(postgres, dataDir, account, options);
  // From here on it does not keep this process alive: a program that forgets stop() still ends, and its database with it.
  server.unref();

  let stopped: Promise<void> | undefined;
  const stop = async () => {
    await shutDown(server);
    if (!options.persistent) rmSync(dataDir, { recursive: true, force: true });
  };
  const url = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`;
  return { url, port, dataDir, pid, stop: () => (stopped ??= stop()) };
}

const LOOPBACK_ONLY = ['-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories='];

interface Launched {
  server: ChildProcess;
  port: number;
  pid: number;
}

async function launch(
  program: string,
  dataDir: string,
  account: Account,
  { flags = [], persistent }: PostgresServerOptions,
): Promise<Launched> {
  const logFile = join(dataDir, 'server.log');
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    const port = await freePort();
    const log = openSync(logFile, 'a');
    const logStart = statSync(logFile).size;
    const server = spawn(
      program,
      [...identifyingArguments(dataDir, process.pid), ...LOOPBACK_ONLY, '-p', String(port), ...flags],
      // A process group of its own: Ctrl-C is for this process, which decides when its database may go.
      { ...account, cwd: '/', env: ENVIRONMENT, detached: true, stdio: ['ignore', log, log] },
    );
    closeSync(log);
    await once(server, 'spawn');
    const pid = server.pid ?? 0;
    const watchdog = watch(pid, persistent ? '' : dataDir);
    const exited = once(server, 'exit').finally(() => watchdog.kill());
    if (await becomesReady(server, dataDir, deadline)) return { server, port, pid };

    server.kill('SIGQUIT');
    await exited;
    const messages = readFileSync(logFile).subarray(logStart).toString().trim();
    const competitor = /lock file "postmaster.pid" already exists[^]*\(PID (\d+)\)/.exec(messages)?.[1];
    if (competitor) throw inUse(dataDir, `the PostgreSQL server with process id ${competitor}, which came first`);
    if (!isPassing(messages) || Date.now() > deadline) {
      throw new Error(
        `PostgreSQL does not start on ${dataDir}. If nothing in there is worth keeping, remove the directory; ` +
          `or set DATABASE_URL to a PostgreSQL server of your own. It said:\n${messages}`,
      );
    }
    await delay(50);
  }
}

/** Somebody took the free port in between, or children of a killed server are still about to notice its death. */
function isPassing(messages: string): boolean {
  return /could not create any TCP\/IP sockets|pre-existing shared memory block/.test(messages);
}

/** The lock file tells (`pg_ctl --wait` reads it too). False when the server ended, or took too long. */
async function becomesReady(server: ChildProcess, dataDir: string, deadline: number): Promise<boolean> {
  while (!hasExited(server) && Date.now() < deadline) {
    const lock = readLock(dataDir);
    if (lock?.ready && lock.pid === server.pid) return true;
    await delay(10);
  }
  return false;
}

/**
 * A shell that waits for the pipe from this process to break, which it does when this process ends in whatever way,
 * SIGKILL included. Then it stops the server, and removes `leftover`. It has a session of its own, so that what ends
 * this process's group leaves it alone.
 */
function watch(pid: number, leftover: string): ChildProcess {
  const script = `
    read -r _
    kill -INT "$1"
    [ -n "$2" ] || exit 0
    polls=0
    while kill -0 "$1" && [ $polls -lt 300 ]; do polls=$((polls + 1)); sleep 0.1; done
    rm -rf -- "$2"`;
  const watchdog = spawn('/bin/sh', ['-c', script, 'watchdog', String(pid), leftover], {
    cwd: '/',
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  watchdog.unref();
  return watchdog;
}

async function shutDown(server: ChildProcess): Promise<void> {
  if (hasExited(server)) return;
  server.ref();
  const exited = once(server, 'exit');
  // Fast shutdown; if that does not end, the one that is as good as a crash, which the next start recovers from.
  server.kill('SIGINT');
  const lastResort = setTimeout(() => server.kill('SIGQUIT'), SHUTDOWN_TIMEOUT_MS);
  await exited;
  clearTimeout(lastResort);
}

function hasExited(server: ChildProcess): boolean {
  return server.exitCode !== null || server.signalCode !== null;
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  return port;
}
