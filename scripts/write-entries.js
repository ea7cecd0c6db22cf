/**
 * Gives what `nest build` has emitted, which is CommonJS, its ESM entries: thin ones, so that there is one instance of
 * each class, DI token and AsyncLocalStorage, however the package is loaded.
 *
 * NestJS 12 is ESM. Node.js lets CommonJS `require()` that, jest does not before Node.js 24.9: so an ESM entry imports
 * NestJS, and leaves it where the implementation looks before it requires anything. An optional peer is imported by the
 * entry alone whose folder asks for it.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const DIST = join(ROOT, 'dist');
const REQUIRED_NESTJS = /\brequire\("(@nestjs\/[^"]+)"\)/g;
const { exports, peerDependenciesMeta } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));

write('package.json', JSON.stringify({ type: 'commonjs' }));
writeNestJs(takeNestJs());
for (const [name, { require: entry }] of Object.entries(exports)) {
  if (name === './client') await writeClient(join(ROOT, entry.default));
  else if (entry) await writeEntry(join(ROOT, entry.default));
}

/** Has the implementation ask for NestJS in one place, and answers with the names of what it asks for. */
function takeNestJs() {
  const names = new Set();
  for (const path of readdirSync(DIST, { recursive: true }).filter((name) => name.endsWith('.js'))) {
    const code = readFileSync(join(DIST, path), 'utf8');
    const place = specifier(relative(dirname(path), 'nestjs.js'));
    const taken = code.replace(REQUIRED_NESTJS, (_, name) => {
      names.add(name);
      return `require("${place}").take("${name}")`;
    });
    if (taken !== code) write(path, taken);
  }
  return [...names].toSorted();
}

function writeNestJs(names) {
  write(
    'nestjs.js',
    `"use strict";
const given = new Map();
const required = {
${names.map((name) => `  "${name}": () => require("${name}"),`).join('\n')}
};
exports.give = (name, module) => void given.set(name, "default" in module ? module.default : module);
exports.take = (name) => given.get(name) ?? required[name]();
`,
  );
  const needed = names.filter((name) => !isOptional(name));
  write('nestjs.mjs', giving(needed, './nestjs.js'));
}

function isOptional(name) {
  return peerDependenciesMeta[name]?.optional === true;
}

function giving(names, place) {
  return `${names.map((name, index) => `import * as module${index} from "${name}";`).join('\n')}
import nestjs from "${place}";

${names.map((name, index) => `nestjs.give("${name}", module${index});`).join('\n')}
`;
}

/** The optional peers that the files beside an entry ask for. */
function optionalPeersOf(file) {
  const folder = dirname(file);
  const texts = readdirSync(folder)
    .filter((name) => name.endsWith('.js'))
    .map((name) => readFileSync(join(folder, name), 'utf8'));
  const taken = texts.flatMap((text) => [...text.matchAll(/\.take\("(@nestjs\/[^"]+)"\)/g)].map(([, name]) => name));
  return [...new Set(taken.filter(isOptional))].toSorted();
}

/** It requires the implementation when it runs: jest would load what an entry imports before NestJS is there. */
async function writeEntry(file) {
  const { default: implementation } = await import(pathToFileURL(file).href);
  const path = relative(DIST, file);
  const own = specifier(relative(dirname(path), path));
  const optional = optionalPeersOf(file);
  write(
    path.replace(/\.js$/, '.mjs'),
    `import { createRequire } from "node:module";
import "${specifier(relative(dirname(path), 'nestjs.mjs'))}";
${optional.length > 0 ? giving(optional, specifier(relative(dirname(path), 'nestjs.js'))) : ''}
export const {
${Object.keys(implementation)
  .map((name) => `  ${name},`)
  .join('\n')}
} = createRequire(import.meta.url)("${own}");
`,
  );
  write(path.replace(/\.js$/, '.d.mts'), `export * from "${own}";\n`);
}

/** Browsers load it as it is, so its ESM requires nothing: one module, with nothing of NestJS, and a state of its own. */
async function writeClient(file) {
  const path = relative(DIST, file);
  await build({
    entryPoints: [join(ROOT, path.replace(/\.js$/, '.ts'))],
    outfile: file.replace(/\.js$/, '.mjs'),
    bundle: true,
    format: 'esm',
    platform: 'neutral',
    target: 'es2022',
    logLevel: 'warning',
  });
  write(path.replace(/\.js$/, '.d.mts'), `export * from "${specifier(relative(dirname(path), path))}";\n`);
}

function specifier(path) {
  return path.startsWith('.') ? path : `./${path}`;
}

function write(path, text) {
  writeFileSync(join(DIST, path), text);
}
