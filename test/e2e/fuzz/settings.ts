import * as fc from 'fast-check';
import { ADAPTERS } from '../../support/test-app.js';

/**
 * What no client and no application should send or return, and some do. FUZZ_SEED repeats a run (the seed is in the
 * message of a failure), FUZZ_SCALE multiplies what goes to the live server: 5 and more makes it 100,000 header values.
 */
export const SEED = Number(process.env['FUZZ_SEED'] ?? 20261121);
const SCALE = Number(process.env['FUZZ_SCALE'] ?? 1);

export const PARSED_VALUES = 100_000;
export const SENT_VALUES = Math.ceil((20_000 * SCALE) / ADAPTERS.length);
export const BODIES = 100 * SCALE;
export const RESOLVER_SEQUENCES = 100 * SCALE;
export const RESPONSES = 200 * SCALE;

export const SLOW_TEST_MS = 120_000 * Math.max(1, SCALE);

export const parameters = (numRuns: number): fc.Parameters<unknown> => ({
  numRuns,
  seed: SEED,
  interruptAfterTimeLimit: SLOW_TEST_MS - 10_000,
  markInterruptAsFailure: true,
});
