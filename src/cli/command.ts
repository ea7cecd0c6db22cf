import type { DataSource } from 'typeorm';

export interface CommandContext {
  /** Connected; the caller closes it. */
  readonly dataSource: DataSource;
  /** `--schema`; without it the DataSource's counts. */
  readonly schema: string | undefined;
  /** `--batch-size`, for `purge` alone. */
  readonly batchSize: number | undefined;
}

/** Prints its results to stdout. Throws when it failed. */
export type Command = (context: CommandContext) => Promise<void>;

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** What is not a result. */
export function printProgress(line: string): void {
  process.stderr.write(`nestjs-idempotency: ${line}\n`);
}
