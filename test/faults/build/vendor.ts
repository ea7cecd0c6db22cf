import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { scratchDirectory } from '../../../examples/support/postgres-account.js';
import { REPOSITORY } from './bundle.js';

const require = createRequire(import.meta.url);

/** The little of webpack's interface that is used here. */
type Webpack = (
  configuration: object,
  done: (error: Error | null, stats?: { hasErrors(): boolean; toString(options: object): string }) => void,
) => void;

/**
 * All packages of the application in one script, `(require) => (name) => exports`: loading them file by file takes a
 * second of CPU time for each instance. It is made once for each package-lock.json, by the webpack of the Nest CLI.
 */
export async function buildVendor(packages: string[]): Promise<string> {
  const lock = readFileSync(join(REPOSITORY, 'package-lock.json'));
  const hash = createHash('sha256')
    .update(lock)
    .update(JSON.stringify([packages, REPOSITORY]))
    .digest('hex');
  const directory = join(scratchDirectory(), `faults-vendor-${hash.slice(0, 16)}`);
  const file = join(directory, 'vendor.js');
  if (existsSync(file)) {
    return file;
  }
  mkdirSync(directory, { recursive: true });
  const entry = join(directory, `entry-${process.pid}.cjs`);
  const bundle = `bundle-${process.pid}.js`;
  writeFileSync(
    entry,
    `const packages = {${packages.map((name) => `${JSON.stringify(name)}: () => require(${JSON.stringify(name)})`).join(',')}};
module.exports = (name) => packages[name]();`,
  );
  await runWebpack(entry, directory, bundle);
  const code = readFileSync(join(directory, bundle), 'utf8');
  const unfinished = `${file}.${process.pid}`;
  writeFileSync(unfinished, `(function (require) { const module = {};\n${code}\nreturn module.exports; })`);
  renameSync(unfinished, file);
  [entry, join(directory, bundle)].forEach((path) => rmSync(path));
  return file;
}

function runWebpack(entry: string, directory: string, filename: string): Promise<void> {
  const webpack = createRequire(require.resolve('@nestjs/cli/package.json'))('webpack') as Webpack;
  const fromRepository = createRequire(join(REPOSITORY, 'package.json'));
  const configuration = {
    mode: 'none',
    target: 'node20',
    // There is neither in a script that is run as such, and TypeORM 0.3 asks.
    node: { __dirname: true, __filename: true },
    entry,
    output: { path: directory, filename, library: { type: 'commonjs2' } },
    resolve: { modules: [join(REPOSITORY, 'node_modules')] },
    module: { parser: { javascript: { dynamicImportMode: 'eager' } } },
    // Other databases' drivers and the like, which the packages ask for only when they are used.
    externals: [
      ({ request }: { request: string }, decide: (error: null, external?: string) => void) => {
        const isMissing = !/^[./]/.test(request) && !resolves(fromRepository, request);
        decide(null, ...(isMissing ? [`commonjs ${request}`] : []));
      },
    ],
    ignoreWarnings: [() => true],
  };
  return new Promise((resolve, reject) => {
    webpack(configuration, (error, stats) => {
      if (error === null && stats?.hasErrors() === false) {
        resolve();
      } else {
        reject(error ?? new Error(stats?.toString({ all: false, errors: true })));
      }
    });
  });
}

function resolves(from: NodeJS.Require, request: string): boolean {
  try {
    from.resolve(request);
    return true;
  } catch (error) {
    // Packages that only export to import() are found by webpack all the same.
    return (error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND';
  }
}
