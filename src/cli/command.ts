import type { DataSource } from 'typeorm';
import type { CommandOptions } from './arguments.js';

export interface CommandContext extends CommandOptions {
  /** Connected; the caller closes it. */
  readonly dataSource: DataSource;
  /** `--schema`; without it the DataSource's counts. */
  readonly schema: string | undefined;
  /** As many as the command names. */
  readonly operands: readonly string[];
}

/** Of a command that has done its work: nothing to complain of, a finding, or nothing there that it was about. */
export const EXIT = { done: 0, finding: 1, notThere: 3 } as const;

/** Prints its results to stdout, and answers the exit code where that is not 0. Throws when it failed. */
export type Command = (context: CommandContext) => Promise<void | number>;

export interface CommandDefinition {
  readonly run: Command;
  readonly operands?: readonly string[];
  /** Those that it takes beside the ones of every command. */
  readonly options?: readonly string[];
  /** @throws UsageError before anything is connected to */
  readonly check?: (options: CommandOptions) => void;
}

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value, undefined, process.stdout.isTTY ? 2 : undefined));
}

/** What is not a result. */
export function printProgress(line: string): void {
  process.stderr.write(`nestjs-idempotency: ${line}\n`);
}
