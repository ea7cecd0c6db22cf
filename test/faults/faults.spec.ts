import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from '@jest/globals';
import type { Summary } from './suite.js';

/** It ends as soon as everything has struck, which on two cores is after one half of this. */
const SECONDS = 80;

describe('under SIGKILL, kill -9 of PostgreSQL, cut and stalled connections', () => {
  let output: string;
  let summary: Summary;

  beforeAll(async () => {
    const file = join(tmpdir(), `faults-summary-${randomUUID()}.json`);
    // A process of its own: what it measures and kills is none of jest's business.
    output = await new Promise<string>((resolve) => {
      const flags = ['--seconds', SECONDS, '--round-seconds', 14, '--summary', file].map(String);
      execFile(
        process.execPath,
        ['--import', '@swc-node/register/esm-register', 'test/faults/run.ts', ...flags],
        (_error, stdout, stderr) => resolve(stdout + stderr),
      );
    });
    if (!existsSync(file)) {
      throw new Error(`The fault suite broke down:\n${output}`);
    }
    summary = JSON.parse(readFileSync(file, 'utf8')) as Summary;
    rmSync(file);
  }, 130_000);

  it('keeps every promise', () => {
    expect({ violations: summary.violations, output }).toEqual({ violations: [], output });
  });

  it('struck at every failpoint, killed PostgreSQL, and broke connections in every way', () => {
    expect(summary.missed).toEqual([]);
  });

  it('had traffic while it did so', () => {
    expect(summary.tally.requests).toBeGreaterThan(500);
    expect(summary.tally.keys).toBeGreaterThan(50);
  });
});
