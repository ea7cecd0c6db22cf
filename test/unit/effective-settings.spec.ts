import { expect, it } from '@jest/globals';
import { effectiveSettings } from '../../src/effective-settings.js';

it('the line at boot tells defaults and what was given, and of functions and secrets that they are there', () => {
  const line = effectiveSettings(
    {
      ttlMs: 1_000,
      required: undefined,
      scope: () => 'x',
      inFlight: { waitMs: 5 },
      hashSecret: 'a secret of the installation',
      encryption: { keys: { a: Buffer.alloc(32) }, currentKeyId: 'a' },
    },
    'shop',
  );
  expect(line).not.toContain('\n');
  for (const part of ["mode 'transaction'", 'ttlMs 1000', 'required true', 'inFlight { waitMs: 5 }', "schema 'shop'"]) {
    expect(line).toContain(part);
  }
  expect(line).toMatch(/, and scope, hashSecret, encryption of its own$/);
  expect(line).not.toContain('a secret of the installation');
});
