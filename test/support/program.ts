import { mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Below node_modules, so that what is compiled finds the packages, and `npm ci` clears it away. */
const COMPILED = join(ROOT, 'node_modules', '.cache', 'test-programs');

/**
 * A program of the repository, `src/cli/main.ts` for instance, as JavaScript that Node.js runs as it is: a loader that
 * compiles would take four times the processor time of the program, in each of hundreds of processes.
 */
export function programOf(path: string): string {
  return join(COMPILED, path.replace(/\.ts$/, '.js'));
}

/** Compiles what has changed since the last time. Runs once before all tests. */
export async function compilePrograms(): Promise<void> {
  const { transformFileSync } = await import('@swc/core');
  const compile = (path: string): void => {
    const target = programOf(path);
    if (changedAt(target) > changedAt(join(ROOT, path))) return;
    if (path.endsWith('.ts')) {
      write(target, transformFileSync(join(ROOT, path), { cwd: ROOT }).code);
    } else if (/^examples.*\.(?:html|css|js|svg)$/.test(path)) {
      write(target, readFileSync(join(ROOT, path), 'utf8')); // what an example serves
    }
  };
  for (const folder of ['src', 'migrations', 'examples', 'test']) {
    for (const path of readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })) {
      compile(join(folder, path));
    }
  }
  write(join(COMPILED, 'package.json'), readFileSync(join(ROOT, 'package.json'), 'utf8'));
}

/** In one go: somebody else may compile at the same time, or run what is there. */
function write(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.${process.pid}`, text);
  renameSync(`${file}.${process.pid}`, file);
}

function changedAt(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}
