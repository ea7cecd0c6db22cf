import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { transformFile } from '@swc/core';

export const ROOT = join(import.meta.dirname, '..');
/** Where git, linters and formatters do not look, and where the packages of both the bench and the root are found. */
const OUTPUT = join(import.meta.dirname, 'node_modules/.build');

/** What the servers under test, and the proxy, consist of. */
const SOURCES = ['src', 'migrations', 'bench/servers', 'bench/proxy'];

/**
 * Translates the library and the servers once, so that the measured processes run plain JavaScript without a loader:
 * as `dist` would, but from the sources as they are now.
 */
export async function buildServers(): Promise<{ entry: string }> {
  await rm(OUTPUT, { recursive: true, force: true });
  await mkdir(OUTPUT, { recursive: true });
  await writeFile(join(OUTPUT, 'package.json'), '{ "type": "module" }\n');
  const files = await Promise.all(SOURCES.map((source) => sourceFiles(join(ROOT, source))));
  await Promise.all(files.flat().map(translate));
  return { entry: join(OUTPUT, 'bench/servers/main.js') };
}

async function sourceFiles(path: string): Promise<string[]> {
  if (path.endsWith('.ts')) {
    return [path];
  }
  const entries = await readdir(path, { recursive: true });
  return entries.filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts')).map((name) => join(path, name));
}

async function translate(file: string): Promise<void> {
  const { code } = await transformFile(file, { configFile: join(ROOT, '.swcrc'), sourceMaps: false });
  const target = join(OUTPUT, relative(ROOT, file)).replace(/\.ts$/, '.js');
  await mkdir(dirname(target), { recursive: true });
  await writeFile(target, code);
}
