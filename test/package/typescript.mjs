/**
 * Compiles what a consumer writes: with the TypeScript of this repository, and with the oldest that can, which docs/compatibility.md
 * names. Those are npm's aliases in a folder of their own.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** What goes with each `moduleResolution`; `node`, as older compilers call it, is node10. */
const RESOLUTIONS = {
  bundler: { module: 'esnext', target: 'es2022', file: 'consumer.ts' },
  node: { module: 'commonjs', target: 'es2021', file: 'older.cts' },
  node16: { module: 'node16', target: 'es2022', file: 'consumer.ts' },
  nodenext: { module: 'nodenext', target: 'es2022', file: 'consumer.ts' },
};

/** Bundlers' resolution came with 5.0. */
const BEFORE_12 = [
  ['4.8', 'node'],
  ['4.8', 'node16'],
  ['4.8', 'nodenext'],
  ['5.0', 'bundler'],
  ['4.7', 'node', { skipLibCheck: true }],
];

/** By the major version of NestJS; the first of each is what CI compiles. NestJS 12 is ESM, which CommonJS may import from 5.8 on. */
const OLDEST = {
  10: BEFORE_12,
  11: BEFORE_12,
  12: [
    ['5.8', 'nodenext'],
    ['5.0', 'node'],
    ['5.0', 'bundler'],
    ['5.0', 'node16', { skipLibCheck: true }],
    ['5.0', 'nodenext', { skipLibCheck: true }],
  ],
};

/** @param options of the compiler, over those that go with the resolution */
export function compile(tsc, directory, moduleResolution, options, step) {
  const { file, ...ofResolution } = RESOLUTIONS[moduleResolution];
  const compilerOptions = {
    ...ofResolution,
    moduleResolution,
    strict: true,
    skipLibCheck: false,
    experimentalDecorators: true,
    emitDecoratorMetadata: true,
    rootDir: '.',
    types: ['node'],
    noEmit: true,
    ...options,
  };
  writeFileSync(join(directory, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: [file] }, null, 2));
  step(`compile under ${moduleResolution}`, tsc, ['-p', directory]);
}

/** Answers with a function that compiles a project with the oldest compilers for its NestJS. */
export function olderTypeScripts({ folder, all, step }) {
  const directory = join(folder, 'typescript');
  const chosen = ([oldest, ...others]) => (all ? [oldest, ...others] : [oldest]);
  const versions = new Set(Object.values(OLDEST).flatMap((rows) => chosen(rows).map(([version]) => version)));
  mkdirSync(directory);
  const aliases = [...versions].map((version) => `typescript-${version}@npm:typescript@${version}`);
  step('install older compilers', 'npm', ['install', '--loglevel=error', '--prefix', directory, ...aliases]);
  return (project, nestjs) => {
    for (const [version, moduleResolution, options] of chosen(OLDEST[nestjs])) {
      const tsc = join(directory, 'node_modules', `typescript-${version}`, 'bin', 'tsc');
      compile(tsc, project, moduleResolution, options, (name, ...rest) =>
        step(`${name} with TypeScript ${version}`, ...rest),
      );
    }
  };
}
