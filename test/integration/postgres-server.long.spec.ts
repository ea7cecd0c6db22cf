import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { Client } from 'pg';
import { serverAccount } from '../../examples/support/postgres-account.js';
import { startPostgres, type PostgresServer } from '../../examples/support/postgres-server.js';
import { programOf } from '../support/program.js';
import { waitFor } from '../support/wait-for.js';

// Each test starts up to four servers and half a dozen processes, next to other test files that do the same.
jest.setTimeout(120_000);

let base: string;
let dataDir: string;
let undo: (() => unknown)[];

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'postgres-server-spec-'));
  chmodSync(base, 0o755);
  dataDir = join(base, 'data');
  undo = [() => rmSync(base, { recursive: true, force: true, maxRetries: 5 })];
});

afterEach(async () => {
  for (const step of undo.toReversed()) await step();
});

async function start(persistent: boolean): Promise<PostgresServer> {
  const server = await startPostgres({ dataDir, persistent });
  undo.push(async () => {
    await server.stop();
    rmSync(server.dataDir, { recursive: true, force: true });
  });
  return server;
}

type Launched = Pick<PostgresServer, 'url' | 'pid' | 'dataDir'>;

interface Program {
  process: ChildProcess;
  launched: Promise<Launched>;
  errors: Promise<string>;
}

/** A process of its own that launches a server, and then stays or ends, in either case without stopping it. */
function runProgram(then: 'stay' | 'leave', environment: NodeJS.ProcessEnv = {}): Program {
  const child = spawn(process.execPath, [programOf('test/support/launch-postgres.ts'), dataDir, then], {
    env: { ...process.env, ...environment },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  undo.push(async () => {
    if (child.exitCode === null && child.kill('SIGKILL')) await once(child, 'exit');
  });
  const errors = text(child.stderr);
  const launched = new Promise<Launched>((resolve, reject) => {
    createInterface({ input: child.stdout })
      .once('line', (line) => resolve(JSON.parse(line) as Launched))
      .once('close', () => void errors.then((all) => reject(new Error(`The program ended without a server. ${all}`))));
  });
  launched.catch(() => {}); // A test may be done before that.
  return { process: child, launched, errors };
}

async function kill({ process: child }: Program): Promise<void> {
  child.kill('SIGKILL');
  await once(child, 'exit');
}

async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new Client(url);
  await client.connect();
  try {
    return (await client.query(sql)).rows as Record<string, unknown>[];
  } finally {
    await client.end();
  }
}

async function listens(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

const ended = ({ url }: Launched) =>
  waitFor(async () => !(await listens(url)), { what: 'the server to end', timeoutMs: 30_000 });

/** The process that would stop the server once its launcher is gone. */
function watchdogOf(server: Launched): number {
  const isWatchdog = (pid: string) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`\0watchdog\0${server.pid}\0`);
    } catch {
      return false; // It has ended since the directory was read.
    }
  };
  const pid = readdirSync('/proc').find((name) => /^\d+$/.test(name) && isWatchdog(name));
  if (!pid) throw new Error(`The server ${server.pid} has no watchdog.`);
  return Number(pid);
}

/** A server that runs on although its launcher is gone, and that holds one row. */
async function orphan(): Promise<Launched> {
  const program = runProgram('stay');
  const server = await program.launched;
  await query(server.url, 'create table kept as select 1 as n');
  process.kill(watchdogOf(server), 'SIGKILL');
  await kill(program);
  return server;
}

/** Where initdb is at work, or was. */
const unfinished = () => readdirSync(base).filter((name) => name.startsWith('data.init-'));

const keptRows = (server: Launched) => query(server.url, 'select n from kept');

describe('the PostgreSQL launcher', () => {
  it('serves PostgreSQL 18 on 127.0.0.1 only, and to those who know the password', async () => {
    const server = await start(false);
    expect(await query(server.url, 'show listen_addresses')).toEqual([{ listen_addresses: '127.0.0.1' }]);
    expect(await query(server.url, 'show unix_socket_directories')).toEqual([{ unix_socket_directories: '' }]);
    expect(await query(server.url, 'show server_version')).toEqual([
      { server_version: expect.stringMatching(/^18\./) },
    ]);
    await expect(query(server.url.replace(/:[^:@]+@/, ':guess@'), 'select 1')).rejects.toThrow(/password/);
  });

  it('keeps persistent data from one start to the next', async () => {
    const first = await start(true);
    await query(first.url, 'create table kept as select 1 as n');
    await first.stop();
    expect(await listens(first.url)).toBe(false);

    const second = await start(true);
    expect(second.dataDir).toBe(first.dataDir);
    expect(await keptRows(second)).toEqual([{ n: 1 }]);
  });

  it('removes data that is not persistent, and only once it has stopped', async () => {
    const server = await start(false);
    await Promise.all([server.stop(), server.stop()]);
    expect(await listens(server.url)).toBe(false);
    expect(existsSync(server.dataDir)).toBe(false);
  });

  it('works below a directory that only its owner can enter', async () => {
    chmodSync(base, 0o700);
    const first = await start(true);
    await query(first.url, 'create table kept as select 1 as n');
    await first.stop();
    expect(await keptRows(await start(true))).toEqual([{ n: 1 }]);
  });

  it('does not outlive a program that ends without stopping it', async () => {
    const program = runProgram('leave');
    const server = await program.launched;
    await ended(server);
    await waitFor(() => !existsSync(server.dataDir), { what: 'the data to be removed' });
    expect(await program.errors).toBe('');
  });

  it('does not outlive a program that is killed', async () => {
    const program = runProgram('stay');
    const server = await program.launched;
    expect(await listens(server.url)).toBe(true);
    await kill(program);
    await ended(server);
  });

  it('recovers after the kill of both the program and the server', async () => {
    const server = await orphan();
    process.kill(server.pid, 'SIGKILL');
    expect(existsSync(join(server.dataDir, 'postmaster.pid'))).toBe(true);
    expect(await keptRows(await start(true))).toEqual([{ n: 1 }]);
  });

  it('stops the server that a killed program left running, and takes its data over', async () => {
    const left = await orphan();
    expect(await listens(left.url)).toBe(true);

    const server = await start(true);
    expect(server.pid).not.toBe(left.pid);
    expect(await listens(left.url)).toBe(false);
    expect(await keptRows(server)).toEqual([{ n: 1 }]);
  });

  it('ignores a lock whose process id belongs to another program by now, and leaves that alone', async () => {
    const first = await start(true);
    const lockFile = join(first.dataDir, 'postmaster.pid');
    const lock = readFileSync(lockFile, 'utf8');
    await first.stop();

    // Of the user that PostgreSQL runs as: with anybody else's process it would see through the lock by itself.
    const stranger = spawn('sleep', ['120'], await serverAccount());
    undo.push(() => stranger.kill());
    await once(stranger, 'spawn');
    writeFileSync(lockFile, lock.replace(/^\d+/, String(stranger.pid)));

    expect(await listens((await start(true)).url)).toBe(true);
    expect(stranger.exitCode ?? stranger.signalCode).toBeNull();
  });

  it('starts over when it was killed in the middle of initdb', async () => {
    const program = runProgram('stay');
    await waitFor(() => unfinished().some((name) => existsSync(join(base, name, 'data', 'PG_VERSION'))), {
      what: 'initdb to be at work',
      timeoutMs: 30_000,
    });
    await kill(program);
    expect(existsSync(dataDir)).toBe(false);

    expect(await listens((await start(true)).url)).toBe(true);
    expect(unfinished()).toEqual([]);
  });

  it('lets one of several simultaneous launches have the directory, and tells the others who has it', async () => {
    const programs = [runProgram('stay'), runProgram('stay'), runProgram('stay')];
    const outcomes = await Promise.allSettled(programs.map(({ launched }) => launched));
    expect(outcomes.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected', 'rejected']);

    const refusals = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [String(outcome.reason)] : []));
    const inUse: unknown = expect.stringContaining(`${dataDir} is in use by `);
    expect(refusals).toEqual([inUse, inUse]);
    await expect(start(true)).rejects.toThrow(/is in use by process \d+ and its PostgreSQL server/);
  });

  it('touches no directory with something else in it', async () => {
    mkdirSync(dataDir);
    writeFileSync(join(dataDir, 'thesis.txt'), 'irreplaceable');
    await expect(start(true)).rejects.toThrow(/holds something else/);
    await expect(start(false)).rejects.toThrow(/needs a new directory/);
    expect(readdirSync(dataDir)).toEqual(['thesis.txt']);
  });

  it('makes its programs readable for the server, whatever the umask', async () => {
    const umask = process.umask(0o077);
    undo.push(() => process.umask(umask));
    const { launched } = runProgram('leave', { TMPDIR: base });
    expect((await launched).dataDir).toBe(dataDir);
  });

  it('runs no program from a directory that somebody else could have prepared', async () => {
    const planted = join(base, `nestjs-idempotency-${process.getuid?.()}`);
    mkdirSync(planted);
    chmodSync(planted, 0o777);
    const program = runProgram('leave', { TMPDIR: base });
    await expect(program.launched).rejects.toThrow(`${planted} is not a directory that belongs to you`);
  });

  it('puts back the files that a cleaner of temporary files took away', async () => {
    await runProgram('leave', { TMPDIR: base }).launched;
    const programs = join(base, `nestjs-idempotency-${process.getuid?.()}`);
    const files = readdirSync(programs, { recursive: true, encoding: 'utf8' });
    const zone = files.find((name) => basename(name) === 'Berlin' && basename(dirname(name)) === 'Europe');
    for (const name of [zone!, files.find((file) => basename(file) === 'postgres')!]) rmSync(join(programs, name));

    dataDir = join(base, 'other-data');
    await runProgram('leave', { TMPDIR: base }).launched;
    expect(readdirSync(programs, { recursive: true, encoding: 'utf8' }).toSorted()).toEqual(files.toSorted());
  });
});
