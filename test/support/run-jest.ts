import { spawn } from 'node:child_process';
import { once } from 'node:events';

/** Runs the e2e suite, or what the arguments say, and answers with jest's exit code. */
export async function runJest(jestArguments: string[], environment: Record<string, string>): Promise<number> {
  const jest = spawn(
    process.execPath,
    [
      '--experimental-vm-modules',
      '--disable-warning=ExperimentalWarning',
      'node_modules/jest/bin/jest.js',
      ...(jestArguments.length > 0 ? jestArguments : ['test/e2e']),
    ],
    { stdio: 'inherit', env: { ...process.env, ...environment } },
  );
  const [code] = (await once(jest, 'exit')) as [number | null];
  return code ?? 1;
}
