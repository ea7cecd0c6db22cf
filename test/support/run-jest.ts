import { spawn } from 'node:child_process';
import { once } from 'node:events';

const E2E_SUITE = [['test/e2e'], ['--config', 'test/jest.long.config.js', 'test/e2e']];

/** Runs the e2e suite, the long tests of it included, or what the arguments say, and answers with jest's exit code. */
export async function runJest(jestArguments: string[], environment: Record<string, string>): Promise<number> {
  for (const run of jestArguments.length > 0 ? [jestArguments] : E2E_SUITE) {
    const code = await runOnce(run, environment);
    if (code !== 0) return code;
  }
  return 0;
}

async function runOnce(jestArguments: string[], environment: Record<string, string>): Promise<number> {
  const jest = spawn(
    process.execPath,
    [
      '--experimental-vm-modules',
      '--disable-warning=ExperimentalWarning',
      'node_modules/jest/bin/jest.js',
      ...jestArguments,
    ],
    { stdio: 'inherit', env: { ...process.env, ...environment } },
  );
  const [code] = (await once(jest, 'exit')) as [number | null];
  return code ?? 1;
}
