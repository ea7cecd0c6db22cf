import { execFileSync } from 'node:child_process';
import { readFileSync, readlinkSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** What PostgreSQL writes into `postmaster.pid`, its lock on a data directory. */
export interface Lock {
  pid: number;
  ready: boolean;
}

/** Fast shutdown takes a checkpoint. 30 s is far beyond one of a database of this size. */
export const SHUTDOWN_TIMEOUT_MS = 30_000;

export function readLock(dataDir: string): Lock | undefined {
  try {
    const lines = readFileSync(lockFile(dataDir), 'utf8').split('\n');
    const pid = Number(lines[0]);
    return pid > 0 ? { pid, ready: lines[7]?.trim() === 'ready' } : undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * The arguments that name a server: its data directory, and the process that launched it. They can be read from the
 * outside, whatever state the server is in, and `cluster_name` shows up in `ps` as well.
 */
export function identifyingArguments(dataDir: string, launcher: number): string[] {
  return ['-D', dataDir, '-c', `cluster_name=launched-by-${launcher}`];
}

/**
 * Makes sure that no earlier server is in the way: one whose launcher is gone is stopped, and a lock that a killed one
 * left behind is removed when its process id belongs to another program by now (PostgreSQL itself removes it when the
 * id is free). A server that is still in use is left alone: that is an error.
 */
export async function freeDataDirectory(dataDir: string): Promise<void> {
  const lock = readLock(dataDir);
  const found = lock && readProcess(lock.pid);
  if (!found) return;
  if (!isServerOf(dataDir, found)) {
    // Read once more: a server that took the directory over a moment ago has its own id in there now.
    if (readLock(dataDir)?.pid === found.pid) rmSync(lockFile(dataDir), { force: true });
    return;
  }

  const launcher = Number(/cluster_name=launched-by-(\d+)/.exec(found.command)?.[1]);
  // The kernel gives orphans a new parent, so this comparison holds even if the launcher's id was given out again.
  if (launcher !== found.parent) {
    if (!launcher) throw inUse(dataDir, `the PostgreSQL server with process id ${found.pid}`);
    await stopOrphan(dataDir, found.pid);
    return;
  }
  throw inUse(dataDir, `process ${launcher} and its PostgreSQL server with process id ${found.pid}`);
}

export function inUse(dataDir: string, user: string): Error {
  return new Error(`${dataDir} is in use by ${user}. Stop that one first, or set DATABASE_URL to another server.`);
}

async function stopOrphan(dataDir: string, pid: number): Promise<void> {
  const runs = () => {
    const found = readProcess(pid);
    return found !== undefined && isServerOf(dataDir, found);
  };
  // Fast shutdown, and the one that is crash-safe but waits for nobody if that does not end.
  for (const signal of ['SIGINT', 'SIGQUIT'] as const) {
    if (runs()) process.kill(pid, signal);
    const deadline = Date.now() + SHUTDOWN_TIMEOUT_MS;
    while (Date.now() < deadline) {
      if (!runs()) return;
      await delay(20);
    }
  }
  throw new Error(`The PostgreSQL server with process id ${pid} on ${dataDir} does not stop. End it by hand.`);
}

interface RunningProcess {
  pid: number;
  parent: number;
  command: string;
  /** Known on Linux only, and only of processes of this user (or, as root, of everybody). */
  workingDirectory?: string;
}

function readProcess(pid: number): RunningProcess | undefined {
  try {
    if (process.platform !== 'linux') {
      const line = execFileSync('ps', ['-ww', '-o', 'ppid=,args=', '-p', String(pid)], { encoding: 'utf8' }).trim();
      const [parent = '', ...command] = line.split(/\s/);
      return { pid, parent: Number(parent), command: command.join(' ') };
    }
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
    return { pid, parent: Number(/^PPid:\s*(\d+)/m.exec(status)?.[1]), command, ...readWorkingDirectory(pid) };
  } catch {
    return undefined;
  }
}

function readWorkingDirectory(pid: number): { workingDirectory?: string } {
  try {
    return { workingDirectory: readlinkSync(`/proc/${pid}/cwd`) };
  } catch {
    return {};
  }
}

/** A server works inside its data directory. Where that cannot be read the command line has to tell. */
function isServerOf(dataDir: string, { command, workingDirectory }: RunningProcess): boolean {
  if (!command.includes('postgres')) return false;
  if (process.platform === 'linux') return workingDirectory === dataDir;
  return command.includes(identifyingArguments(dataDir, 0).slice(0, 2).join(' '));
}

function lockFile(dataDir: string): string {
  return join(dataDir, 'postmaster.pid');
}
