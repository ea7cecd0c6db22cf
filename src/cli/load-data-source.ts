import { access } from 'node:fs/promises';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { DataSource } from 'typeorm';
import { UsageError } from './usage-error.js';

/** By what they are installed as. tsx leaves decorator metadata out, so entities must name the types of their columns. */
const LOADERS = ['tsx', '@swc-node/register/esm-register', 'ts-node/esm']
  .map((loader) => `NODE_OPTIONS='--import ${loader}'`)
  .join(', or ')
  .replace('--import ts-node/esm', '--loader ts-node/esm');

/** Node's own: compiled to CommonJS an `import()` is a `require()`, which takes no URL, and knows no loaders of ESM. */
const importUrl = new Function('url', 'return import(url)') as (url: string) => Promise<Record<string, unknown>>;

/** Imports the user's module and finds the one DataSource in it, exported as default or by any name. */
export async function loadDataSource(file: string): Promise<DataSource> {
  const path = resolve(file);
  await access(path).catch((cause: unknown) => {
    throw new UsageError(`--data-source: there is no file ${path}.`, { cause });
  });

  const [found, ...others] = await dataSourcesOf(await importModule(path));
  if (found === undefined) {
    throw new UsageError(`--data-source: ${file} exports no TypeORM DataSource. Export the instance, by any name.`);
  }
  if (others.length > 0) {
    throw new UsageError(`--data-source: ${file} exports several DataSources. Name a module that exports one.`);
  }
  return found;
}

async function importModule(path: string): Promise<Record<string, unknown>> {
  try {
    return await importUrl(pathToFileURL(path).href);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ERR_UNKNOWN_FILE_EXTENSION') {
      throw new UsageError(
        `--data-source: this Node.js cannot load ${path}. Name the compiled .js file, or preload a TypeScript loader that is installed here: ${LOADERS}.`,
        { cause: error },
      );
    }
    throw new Error(
      `--data-source: ${path} failed to load: ${error instanceof Error ? error.message : String(error)}`,
      {
        cause: error,
      },
    );
  }
}

/** A Set, since a CommonJS module shows its exports twice: by name, and once more inside `default`. */
async function dataSourcesOf(module: Record<string, unknown>): Promise<Set<DataSource>> {
  const exported = Object.values(module);
  const inDefault = typeof module.default === 'object' && module.default !== null ? Object.values(module.default) : [];
  const values = await Promise.all([...exported, ...inDefault]);
  return new Set(values.filter(isDataSource));
}

/** By its shape: the application may resolve another copy of TypeORM than we do, where `instanceof` is always false. */
function isDataSource(value: unknown): value is DataSource {
  return (
    typeof value === 'object' &&
    value !== null &&
    'initialize' in value &&
    typeof value.initialize === 'function' &&
    'options' in value &&
    typeof value.options === 'object'
  );
}
