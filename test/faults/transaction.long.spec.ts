import { beforeAll, describe, expect, it } from '@jest/globals';
import { runApart } from './run-apart.js';
import type { Summary } from './suite.js';

/** It ends as soon as everything has struck, which on two cores is after one half of this. */
const SECONDS = 80;

describe('under SIGKILL, kill -9 of PostgreSQL, cut and stalled connections', () => {
  let output: string;
  let summary: Summary;

  beforeAll(async () => {
    ({ output, summary } = await runApart(['--scenario', 'transaction', '--seconds', SECONDS, '--round-seconds', 14]));
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
