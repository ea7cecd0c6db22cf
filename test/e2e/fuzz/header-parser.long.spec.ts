import { describe, expect, it } from '@jest/globals';
import { type ParsedKey, parseIdempotencyKey } from '../../../src/http/idempotency-key.js';
import { headerValues, REASONS } from './header-values.js';
import { PARSED_VALUES, SEED } from './settings.js';

describe('the parser of the header', () => {
  it(`says of ${PARSED_VALUES} values either a usable key or one of four reasons`, () => {
    const problems: unknown[] = [];
    const seen = { key: 0, malformed: 0, missing: 0 };
    for (const value of headerValues(PARSED_VALUES, SEED)) {
      const parsed = parseIdempotencyKey(value);
      seen[parsed.kind]++;
      if (!isSound(value, parsed)) problems.push({ seed: SEED, value, parsed });
    }
    expect(problems).toEqual([]);
    expect(seen.missing).toBe(0);
    expect(Math.min(seen.key, seen.malformed)).toBeGreaterThan(PARSED_VALUES / 10);
  });
});

function isSound(value: string, parsed: ParsedKey): boolean {
  switch (parsed.kind) {
    case 'missing':
      return false;
    case 'malformed':
      return REASONS.includes(parsed.reason);
    case 'key': {
      const quoted = parseIdempotencyKey(`"${parsed.key.replaceAll(/["\\]/g, String.raw`\$&`)}"`);
      return parsed.raw === value && /^[ -~]{1,255}$/.test(parsed.key) && 'key' in quoted && quoted.key === parsed.key;
    }
  }
}
