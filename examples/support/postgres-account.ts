import { execFile, spawnSync } from 'node:child_process';
import { chmodSync, lstatSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Who the server runs as: `spawn` options. Empty when that is this process's own user. */
export interface Account {
  uid?: number;
  gid?: number;
}

/** PostgreSQL refuses to run as root, so root lends the system user `postgres` and creates it when there is none. */
export async function serverAccount(): Promise<Account> {
  if (ownUid() !== 0) return {};
  const existing = await systemUser();
  if (existing) return existing;

  // Two launches may get here together: the one that finds the user just created has what it wants too.
  const failure = await run('useradd', ['--system', '--user-group', '--no-create-home', 'postgres']).catch(String);
  const created = await systemUser();
  if (created) return created;
  throw new Error(
    `PostgreSQL does not run as root, and the system user "postgres" could not be created (${String(failure)}). ` +
      'Create it with "useradd --system postgres", start as an ordinary user, or set DATABASE_URL to a server of your own.',
  );
}

async function systemUser(): Promise<Account | undefined> {
  try {
    const [uid, gid] = await Promise.all([run('id', ['-u', 'postgres']), run('id', ['-g', 'postgres'])]);
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
  } catch {
    return undefined;
  }
}

/** Asks the kernel rather than adding up mode bits: below a home directory of mode 0700 only its owner gets through. */
export function canEnter(directory: string, account: Account): boolean {
  return spawnSync('/bin/sh', ['-c', 'cd -- "$1"', 'sh', directory], { ...account, cwd: '/' }).status === 0;
}

/**
 * A directory of this user's that everybody can read and nobody else can write to. Its name below the shared temporary
 * directory can be guessed, so somebody else may have put one there to have his programs run: such a one is refused.
 */
export function scratchDirectory(): string {
  const uid = ownUid();
  const directory = join(tmpdir(), `nestjs-idempotency-${uid}`);
  mkdirSync(directory, { recursive: true });
  const found = lstatSync(directory);
  if (!found.isDirectory() || found.uid !== uid || (found.mode & 0o022) !== 0) {
    throw new Error(
      `${directory} is not a directory that belongs to you and that only you can write to. ` +
        'Remove it, or set TMPDIR to a directory of your own.',
    );
  }
  chmodSync(directory, 0o755); // whatever the umask was
  return directory;
}

export function ownUid(): number {
  if (process.getuid) return process.getuid();
  throw new Error('The PostgreSQL launcher needs Linux or macOS. Set DATABASE_URL to a PostgreSQL server of your own.');
}
