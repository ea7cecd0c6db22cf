import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { programOf } from './program.js';
import { waitFor } from './wait-for.js';

export interface PaymentsExample {
  readonly port: number;
  /** What it printed by the time it was ready. */
  output: string[];
  /** What it complained about so far. */
  errors(): string;
  /** Sends the signal and answers with the exit code, which a process that a signal ended has none of. */
  end(signal: NodeJS.Signals): Promise<number | null>;
}

/** The command of `npm start`, which compiles as it goes; or the same program compiled beforehand, in a fourth of the time. */
export type Command = 'npm start' | 'compiled';

/** Runs the example and waits until it serves. */
export async function startPaymentsExample(
  environment: NodeJS.ProcessEnv,
  command: Command = 'compiled',
): Promise<PaymentsExample> {
  const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: { start: string } };
  const args =
    command === 'compiled'
      ? [programOf('examples/payments/main.ts')]
      : scripts.start.replace(/^.*?\bnode /, '').split(' ');
  const { DATABASE_URL: _, ...env } = process.env;
  const child = spawn(process.execPath, args, {
    env: { ...env, PORT: '0', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });

  const output: string[] = [];
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (!line.includes('ModuleTokenFactory')) output.push(line); // NestJS 10 on a machine that is busy
  });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (errors += chunk));

  const hasEnded = () => child.exitCode !== null || child.signalCode !== null;
  const isReady = () => output.filter((line) => line.startsWith('curl ')).length === 5;
  await waitFor(() => hasEnded() || isReady(), { what: 'the example to be ready', timeoutMs: 60_000 });
  const port = Number(/^ready http:\/\/127\.0\.0\.1:(\d+)$/.exec(output[0] ?? '')?.[1]);
  if (!port) throw new Error(`The example did not start. It printed:\n${output.join('\n')}\n${errors}`);

  return {
    port,
    output,
    errors: () => errors,
    async end(signal) {
      if (!hasEnded()) {
        child.kill(signal);
        await once(child, 'exit');
      }
      return child.exitCode;
    },
  };
}
