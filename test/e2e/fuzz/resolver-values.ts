import { types } from 'node:util';
import * as fc from 'fast-check';
import { type Resolved, Throws } from './resolvers.controller.js';

const anything = fc.anything({
  maxDepth: 2,
  withBigInt: true,
  withBoxedValues: true,
  withDate: true,
  withMap: true,
  withNullPrototype: true,
  withObjectString: true,
  withSet: true,
  withSparseArray: true,
  withTypedArray: true,
});
const throwing = fc.constant(new Throws('by the resolver'));
export const anyKey = fc.oneof(
  { arbitrary: fc.constantFrom('k', '"k"', '', 'k\0', 'ü'), weight: 4 },
  anything,
  throwing,
);

export const anyScope = fc.oneof(
  { arbitrary: fc.constantFrom('', 's', '"s"', 'ü', '世', 's\0', 's'.repeat(256)), weight: 4 },
  fc.string({ unit: 'binary', maxLength: 3 }),
  anything,
  throwing,
);
export const anyFingerprint = fc.oneof({ arbitrary: anything, weight: 6 }, throwing, fc.constant(undefined));

/** The errors of the application in what its resolvers return, as it is told about them: about one of several. */
export function applicationErrors({ scope, fingerprint }: Resolved): string[] {
  const isScope = typeof scope === 'string' && scope.length <= 255 && !scope.includes('\0') && isWellFormed(scope);
  return [
    ...([scope, fingerprint].some((value) => value instanceof Throws) ? ['by the resolver'] : []),
    ...(isScope || scope instanceof Throws ? [] : ['The scope of an idempotency key must be a string']),
    ...(fingerprint === undefined ? ['The `fingerprint` resolver returned undefined'] : []),
  ];
}

/** A lone surrogate is no character that the database could store. */
function isWellFormed(text: string): boolean {
  return Buffer.from(text).toString() === text;
}

/** What two fingerprints have in common where they are to count as the same: what they are as JSON. */
export function asJson(value: unknown, isRoot = true): unknown {
  if (value instanceof Uint8Array && isRoot) return { bytes: [...value] };
  if (typeof value === 'bigint') return { bigint: String(value) };
  if (typeof value === 'number')
    return Object.is(value, -0) ? 0 : Number.isFinite(value) ? value : { number: String(value) };
  if (typeof value === 'function' || typeof value === 'symbol' || value === undefined || value === null) return null;
  if (typeof value !== 'object') return value;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString();
  if (types.isBoxedPrimitive(value)) return asJson(value.valueOf());
  if (Symbol.iterator in value) return Array.from(value as Iterable<unknown>, (element) => asJson(element, false));
  const members = Object.entries(value).filter(
    ([, member]) => !['undefined', 'function', 'symbol'].includes(typeof member),
  );
  return { members: new Map(members.map(([name, member]) => [name, asJson(member, false)])) };
}
