import { beforeAll, describe, expect, it } from '@jest/globals';
import { runApart } from './run-apart.js';
import type { Summary } from './suite.js';

/** It ends as soon as every failpoint has struck. */
const SECONDS = 90;

describe('in lease mode, under SIGKILL, frozen holders, expired leases, cut renewals and an unreliable provider', () => {
  let output: string;
  let summary: Summary;

  beforeAll(async () => {
    const flags = ['--scenario', 'lease', '--seconds', SECONDS, '--round-seconds', 8, '--passages', 4];
    ({ output, summary } = await runApart([...flags, '--postgres-kills', 1]));
  }, 240_000);

  it('keeps every promise', () => {
    expect({ violations: summary.violations, output }).toEqual({ violations: [], output });
  });

  it('struck at every failpoint, and killed PostgreSQL', () => {
    expect(summary.missed.filter((what) => what.startsWith('kills'))).toEqual([]);
  });

  it('had operations taken over, gone on with, and decided by an operator', () => {
    const { takeovers, resumptions, decisions, pauses, backDatedLeases, renewals } = summary.tally;
    for (const count of [takeovers, resumptions, decisions, pauses, backDatedLeases, renewals]) {
      expect(count).toBeGreaterThan(0);
    }
  });

  it('had the provider called more often than it acted, and act at most once for each step', () => {
    const { providerCalls, providerSteps, providerEffects } = summary.tally;
    expect(providerCalls).toBeGreaterThan(providerSteps);
    expect(providerEffects).toBeLessThanOrEqual(providerSteps);
  });

  it('had steps whose provider knows no keys, and acts each time', () => {
    expect(summary.tally.unkeyedSteps).toBeGreaterThan(0);
  });
});
