import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { transformSync } from '@swc/core';
import { scratchDirectory } from '../../../examples/support/postgres-account.js';
import { applyMutant, type Mutant } from '../mutants.js';
import { buildVendor } from './vendor.js';

/** Two levels above this directory: the checkout. */
export const REPOSITORY = fileURLToPath(new URL('../../..', import.meta.url));

const ENTRY = 'test/faults/app/main.ts';

/**
 * Compiles the application under test, and the library in it, into one plain script that an instance starts from in a
 * fifth of the time: thousands of kills mean thousands of starts. Everything that npm installed is a second script,
 * which outlives the run.
 *
 * @param mutant a bug to put into the library's sources first
 * @returns the file to start an instance with, in a directory that the caller removes
 */
export async function buildApplication(mutant?: Mutant): Promise<string> {
  const modules = collectModules(mutant);
  const packages = [...new Set(modules.flatMap(({ imports }) => imports.filter((name) => isPackage(name))))].toSorted();
  const vendor = await buildVendor(packages);
  const directory = mkdtempSync(join(scratchDirectory(), 'faults-app-'));
  const main = join(directory, 'main.cjs');
  const app = join(directory, 'app.js');
  writeFileSync(app, linkedScript(modules, packages));
  writeFileSync(main, starter(vendor, app));
  return main;
}

interface CompiledModule {
  /** Path in the repository. */
  path: string;
  code: string;
  imports: string[];
}

function collectModules(mutant: Mutant | undefined): CompiledModule[] {
  const patched = mutant === undefined ? new Map<string, string>() : applyMutant(mutant, readSource);
  const found = new Map<string, CompiledModule>();
  const visit = (path: string): void => {
    if (found.has(path)) {
      return;
    }
    const code = compile(path, patched.get(path) ?? readSource(path));
    const imports = [...code.matchAll(/\brequire\("([^"]+)"\)/g)].map(([, name]) => name!);
    found.set(path, { path, code, imports });
    imports.filter((name) => name.startsWith('.')).forEach((name) => visit(resolveModule(path, name)));
  };
  visit(ENTRY);
  const missed = [...patched.keys()].filter((path) => !found.has(path));
  if (missed.length > 0) {
    throw new Error(`The mutant changes ${missed.join(', ')}, which the application does not load.`);
  }
  return [...found.values()];
}

function readSource(path: string): string {
  return readFileSync(join(REPOSITORY, path), 'utf8');
}

function resolveModule(importer: string, name: string): string {
  return relative(REPOSITORY, resolve(REPOSITORY, dirname(importer), name)).replace(/\.js$/, '.ts');
}

function isPackage(name: string): boolean {
  return !name.startsWith('.') && !isBuiltin(name);
}

function compile(path: string, source: string): string {
  return transformSync(source, {
    filename: path,
    swcrc: false,
    jsc: {
      target: 'es2022',
      parser: { syntax: 'typescript', decorators: true },
      transform: { legacyDecorator: true, decoratorMetadata: true },
      keepClassNames: true,
    },
    module: { type: 'commonjs' },
  }).code;
}

/** All modules in one expression: a function that takes the packages and runs the entry. */
function linkedScript(modules: CompiledModule[], packages: string[]): string {
  const definitions = modules.map(({ path, code, imports }) => {
    const targets = Object.fromEntries(
      imports.filter((name) => name.startsWith('.')).map((name) => [name, resolveModule(path, name)]),
    );
    return `${JSON.stringify(path)}: [${JSON.stringify(targets)}, function (exports, require) {\n${code}\n}]`;
  });
  return `(function (vendor, builtin) {
const packages = new Set(${JSON.stringify(packages)});
const definitions = {\n${definitions.join(',\n')}\n};
const loaded = {};
function load(path) {
  if (loaded[path]) return loaded[path];
  const exports = (loaded[path] = {});
  const [targets, run] = definitions[path];
  run(exports, (name) => (targets[name] ? load(targets[name]) : packages.has(name) ? vendor(name) : builtin(name)));
  return exports;
}
load(${JSON.stringify(ENTRY)});
})`;
}

/** Loads both scripts by V8's code cache, which the first instance that has booted leaves behind. */
function starter(vendor: string, app: string): string {
  return `'use strict';
const fs = require('node:fs');
const vm = require('node:vm');
const cached = (file) => {
  const cache = file + '.cache-' + process.versions.v8;
  const cachedData = fs.existsSync(cache) ? fs.readFileSync(cache) : undefined;
  const script = new vm.Script(fs.readFileSync(file, 'utf8'), { filename: file, cachedData });
  if (cachedData === undefined || script.cachedDataRejected) {
    // Behind the first requests, so that the functions they have compiled are in it.
    setTimeout(() => {
      const unfinished = cache + '.' + process.pid;
      fs.writeFileSync(unfinished, script.createCachedData());
      fs.renameSync(unfinished, cache);
    }, 3000).unref();
  }
  return script.runInThisContext();
};
cached(${JSON.stringify(app)})(cached(${JSON.stringify(vendor)})(require), require);
`;
}
