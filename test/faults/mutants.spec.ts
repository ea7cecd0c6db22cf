import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { applyMutant, MUTANTS } from './mutants.js';

/** The hunt itself takes minutes: `npm run test:faults -- --mutants`. Here it is only made sure that it still can. */
describe('the seeded bugs that the fault suite must find', () => {
  it('are at least a dozen, each with a name of its own', () => {
    expect(new Set(MUTANTS.map(({ name }) => name)).size).toBe(MUTANTS.length);
    expect(MUTANTS.length).toBeGreaterThanOrEqual(12);
  });

  it.each(MUTANTS.map((mutant) => [mutant.name, mutant] as const))('fit the sources: %s', (_name, mutant) => {
    expect(applyMutant(mutant, (path) => readFileSync(path, 'utf8')).size).toBeGreaterThan(0);
  });

  it('are refused when they do not fit any more', () => {
    const rotten = {
      name: 'rotten',
      expected: [],
      changes: [{ file: 'src/modes/claim.ts', from: 'no such text', to: '' }],
    };

    expect(() => applyMutant(rotten, (path) => readFileSync(path, 'utf8'))).toThrow('0 matches instead of one');
  });
});
