// oxlint-disable jest/no-conditional-expect, jest/expect-expect -- what a property claims depends on the case that was generated
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import * as fc from 'fast-check';
import { type ParsedKey, parseResolvedKey } from '../../../src/http/idempotency-key.js';
import { ADAPTERS, type TestApp } from '../../support/test-app.js';
import { anyFingerprint, anyKey, anyScope, applicationErrors, asJson } from './resolver-values.js';
import { resolved, ResolversController, resolveTo, Throws } from './resolvers.controller.js';
import { parameters, RESOLVER_SEQUENCES, SLOW_TEST_MS } from './settings.js';
import { startTest } from './start-test.js';

describe.each(ADAPTERS)('resolvers that return anything at all, on %s', (adapter) => {
  let test: Awaited<ReturnType<typeof startTest>>;

  beforeAll(async () => {
    test = await startTest(adapter, [ResolversController]);
  });

  afterAll(async () => {
    await test.close();
  });

  it(
    'are told what is wrong, or are taken at their word: the same answer for the same three, and for no others',
    async () => {
      const few = <T>(values: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(values, { minLength: 1, maxLength: 3 });
      const pools = fc.record({ keys: few(anyKey), scopes: few(anyScope), fingerprints: few(anyFingerprint) });
      const picks = fc.array(fc.tuple(fc.nat(2), fc.nat(2), fc.nat(2)), { minLength: 2, maxLength: 8 });
      await fc.assert(
        fc
          .asyncProperty(pools, picks, (from, indexes) => checkResolved(test, from, indexes))
          .beforeEach(() => test.dataSource.query('delete from idempotency_keys')),
        parameters(RESOLVER_SEQUENCES),
      );
    },
    SLOW_TEST_MS,
  );
});

interface Pools {
  keys: unknown[];
  scopes: unknown[];
  fingerprints: unknown[];
}

async function checkResolved(
  test: TestApp & { lines: string[] },
  { keys, scopes, fingerprints }: Pools,
  indexes: [number, number, number][],
): Promise<void> {
  const recorded: { scope: unknown; fingerprint: unknown; body: string }[] = [];
  for (const [one, two, three] of indexes) {
    resolveTo({
      key: keys[one % keys.length],
      scope: scopes[two % scopes.length],
      fingerprint: fingerprints[three % fingerprints.length],
    });
    test.lines.length = 0;
    const { status, body, ...response } = await test.request({ method: 'POST', path: '/resolved' });
    const { key, scope, fingerprint } = resolved;
    const log = test.lines.join('\n');

    if (key instanceof Throws) {
      expect([status, log]).toEqual([500, expect.stringContaining('by the resolver')]);
      continue;
    }
    if (key !== 'k' && key !== '"k"' && parsedAs(key) !== 'key') {
      expect(JSON.parse(body.toString())).toMatchObject({
        status: 400,
        type: `urn:nestjs-idempotency:key-${parsedAs(key)}`,
      });
      continue;
    }
    const errors = applicationErrors(resolved);
    if (errors.length > 0) {
      expect(status).toBe(500);
      expect(errors.filter((error) => log.includes(error))).toHaveLength(1);
      continue;
    }
    const before = recorded.find((record) => record.scope === JSON.stringify([scope, keyOf(key)]));
    const isSame = before && isDeepStrictEqual(asJson(before.fingerprint), asJson(fingerprint));
    expect(status).toBe(before === undefined || isSame ? 201 : 422);
    if (isSame) expect(body.toString()).toBe(before.body);
    if (status === 201) {
      expect(response.headerLines.includes('Idempotency-Replayed: true')).toBe(before !== undefined);
    }
    if (!before) recorded.push({ scope: JSON.stringify([scope, keyOf(key)]), fingerprint, body: body.toString() });
    expect(log).toBe('');
  }
}

/** Only a string is a key. */
function parsedAs(key: unknown): ParsedKey['kind'] {
  if (key === undefined || key === null || key === '') return 'missing';
  return typeof key === 'string' ? parseResolvedKey(key).kind : 'malformed';
}

function keyOf(key: unknown): string {
  const parsed = parseResolvedKey(key);
  return parsed.kind === 'key' ? parsed.key : '';
}
