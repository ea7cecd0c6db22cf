import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { canEnter, ownUid, scratchDirectory, type Account } from './postgres-account.js';

const run = promisify(execFile);

/** What the PostgreSQL programs are run with: their messages in English, and nothing of the caller's PG* variables. */
export const ENVIRONMENT = { PATH: process.env['PATH'], LC_ALL: 'C' };

/** The wanted directory where the server's user can reach it, else one in its stead that stays the same from run to run. */
export function reachableDirectory(wanted: string, account: Account): string {
  const path = existsSync(wanted) ? realpathSync(wanted) : resolve(wanted);
  mkdirSync(dirname(path), { recursive: true });
  const parent = realpathSync(dirname(path));
  if (canEnter(parent, account)) return join(parent, basename(path));

  const instead = scratchDirectory();
  if (!canEnter(instead, account)) {
    throw new Error(
      `The user "postgres" can reach neither ${parent} nor ${instead}. Set TMPDIR to a directory he can.`,
    );
  }
  return join(instead, `data-${createHash('sha256').update(path).digest('hex').slice(0, 16)}`);
}

export interface ClusterOptions {
  initdb: string;
  /** Of the PostgreSQL that this is. */
  major: number;
  account: Account;
  /** Whether the data of an earlier start is used again. */
  persistent: boolean;
}

/** Creates the data directory when there is none yet, and answers with the password of its superuser `postgres`. */
export async function ensureCluster(dataDir: string, options: ClusterOptions): Promise<string> {
  removeUnfinished(dataDir);
  if (!isCluster(dataDir, options)) await createCluster(dataDir, options);
  return readFileSync(join(dataDir, PASSWORD_FILE), 'utf8').trim();
}

const CLUSTER_PROPERTIES = [
  '--username=postgres',
  '--auth=scram-sha-256',
  // The same on every machine, whatever locales are installed there.
  '--encoding=UTF8',
  '--locale=C',
];

/** Knows the case of more letters than ASCII's. */
const BUILTIN_LOCALE = { since: 17, properties: ['--locale-provider=builtin', '--builtin-locale=C.UTF-8'] };

/** The server listens on loopback, where every local user can connect: hence a password, kept with the data. */
const PASSWORD_FILE = 'launcher-password';

function isCluster(dataDir: string, { account, persistent, major }: ClusterOptions): boolean {
  const entries = list(dataDir);
  if (entries.length === 0) return false;
  if (!persistent) {
    // It may be about to be removed by the watchdog of the launch that left it.
    throw new Error(`${dataDir} is not empty. Data that is not persistent needs a new directory: name another one.`);
  }
  if (!entries.includes(PASSWORD_FILE)) {
    throw new Error(`${dataDir} holds something else than the data of this launcher. Choose another directory.`);
  }
  const owner = statSync(dataDir).uid;
  if (owner !== (account.uid ?? ownUid())) throw belongsToAnother(dataDir, owner);
  const version = readFileSync(join(dataDir, 'PG_VERSION'), 'utf8').trim();
  if (version !== String(major)) {
    throw new Error(`${dataDir} was made by PostgreSQL ${version}, this is ${major}. Remove the directory.`);
  }
  return true;
}

function list(dataDir: string): string[] {
  try {
    return readdirSync(dataDir);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return [];
    throw code === 'EACCES' ? belongsToAnother(dataDir, statSync(dataDir).uid) : error;
  }
}

function belongsToAnother(dataDir: string, owner: number): Error {
  return new Error(`${dataDir} belongs to another user (uid ${owner}). Start as that user, or remove the directory.`);
}

/**
 * initdb works in a directory of its own, whose result then gets its name in one step. So a data directory is complete
 * from its first moment, and of two launches at once one wins and both use its result.
 */
async function createCluster(dataDir: string, { initdb, major, account, persistent }: ClusterOptions): Promise<void> {
  const staging = mkdtempSync(`${dataDir}${STAGING_INFIX}${process.pid}-`);
  const passwordFile = join(staging, PASSWORD_FILE);
  const data = join(staging, 'data');
  const locale = major >= BUILTIN_LOCALE.since ? BUILTIN_LOCALE.properties : [];
  const sync = persistent ? [] : ['--no-sync'];
  try {
    writeFileSync(passwordFile, `${randomBytes(18).toString('base64url')}\n`, { mode: 0o600 });
    if (account.uid !== undefined && account.gid !== undefined) {
      for (const path of [staging, passwordFile]) chownSync(path, account.uid, account.gid);
    }
    await run(initdb, ['--pgdata', data, '--pwfile', passwordFile, ...CLUSTER_PROPERTIES, ...locale, ...sync], {
      ...account,
      cwd: '/',
      env: ENVIRONMENT,
    }).catch((error: unknown) => {
      throw new Error(
        `PostgreSQL could not create ${dataDir}. If its programs may not run below the temporary directory, set TMPDIR ` +
          `to another one; or set DATABASE_URL to a PostgreSQL server of your own. What happened: ${String(error)}`,
        { cause: error },
      );
    });
    renameSync(passwordFile, join(data, PASSWORD_FILE));
    renameSync(data, dataDir);
  } catch (error) {
    if (!isLostRace(error)) throw error;
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

/** Another launch was faster: its directory is in place, and ours cannot replace one that is not empty. */
function isLostRace(error: unknown): boolean {
  return ['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '');
}

const STAGING_INFIX = '.init-';

/** What killed launches left behind. Those of launches that still run are recognised by the process id in the name. */
function removeUnfinished(dataDir: string): void {
  const prefix = basename(dataDir) + STAGING_INFIX;
  for (const name of readdirSync(dirname(dataDir))) {
    if (!name.startsWith(prefix) || isAlive(Number.parseInt(name.slice(prefix.length), 10))) continue;
    rmSync(join(dirname(dataDir), name), { recursive: true, force: true, maxRetries: 5 });
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
