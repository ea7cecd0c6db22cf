import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Summary } from './suite.js';

/** Runs the suite in a process of its own: what it measures and kills is none of jest's business. */
export async function runApart(flags: (string | number)[]): Promise<{ output: string; summary: Summary }> {
  const file = join(tmpdir(), `faults-summary-${randomUUID()}.json`);
  const output = await new Promise<string>((resolve) => {
    execFile(
      process.execPath,
      [
        '--import',
        '@swc-node/register/esm-register',
        'test/faults/run.ts',
        ...[...flags, '--summary', file].map(String),
      ],
      (_error, stdout, stderr) => resolve(stdout + stderr),
    );
  });
  if (!existsSync(file)) {
    throw new Error(`The fault suite broke down:\n${output}`);
  }
  const summary = JSON.parse(readFileSync(file, 'utf8')) as Summary;
  rmSync(file);
  return { output, summary };
}
