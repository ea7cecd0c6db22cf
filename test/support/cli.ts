import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { describeFailure } from '../../src/cli/failure.js';
import { runCommand } from '../../src/cli/run-command.js';
import { programOf } from './program.js';

export interface CliResult {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Runs the command line, in a process of its own whose output goes to pipes. */
export function runCli(args: string[], env: Record<string, string> = {}): Promise<CliResult> {
  return run(process.execPath, [programOf('src/cli/main.ts'), ...args], env);
}

/** Runs a line of bash, in which `"$NODE" "$CLI"` is the command line. */
export function runShell(line: string, env: Record<string, string> = {}): Promise<CliResult> {
  return run('bash', ['-c', line], { NODE: process.execPath, CLI: programOf('src/cli/main.ts'), ...env });
}

async function run(program: string, args: string[], env: Record<string, string>): Promise<CliResult> {
  const { DATABASE_URL: _, ...inherited } = process.env;
  const child = spawn(program, args, {
    cwd: ROOT,
    env: { ...inherited, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const exit = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const [stdout, stderr, exitCode] = await Promise.all([text(child.stdout), text(child.stderr), exit]);
  return { exitCode, stdout, stderr };
}

/** The same within this process, for tests of what a command does: one after another, since there is one stdout. */
export async function runCliHere(args: string[]): Promise<CliResult> {
  const written = { stdout: '', stderr: '' };
  const streams = ['stdout', 'stderr'] as const;
  const writes = streams.map((name) => process[name].write);
  for (const name of streams) {
    process[name].write = (chunk: string | Uint8Array) => {
      written[name] += String(chunk);
      return true;
    };
  }
  try {
    const exitCode = await runCommand(args);
    return { exitCode, ...written };
  } catch (error) {
    const { exitCode, message } = describeFailure(error);
    return { exitCode, stdout: written.stdout, stderr: `${written.stderr}nestjs-idempotency: ${message}\n` };
  } finally {
    streams.forEach((name, index) => {
      process[name].write = writes[index]!;
    });
  }
}
