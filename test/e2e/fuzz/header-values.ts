import * as fc from 'fast-check';

const FRAGMENTS = String.raw`" \ \" \\ ; = , a A k1 * 1 12.5 - . @7 ?1 ? : :YQ==: %" %c3 % ü é "abc" ;a=1 "a";b="c" .123 999999999999999 ~ 世`;

const fragment = fc.constantFrom(
  ' ',
  '  ',
  '; ',
  '\t',
  '\0',
  '\x7f',
  '\x80',
  '\u{1f600}',
  '\ud800',
  ...FRAGMENTS.split(' '),
);
const nearlyGrammatical = fc.array(fragment, { maxLength: 12 }).map((pieces) => pieces.join(''));

const headerValue = fc.oneof(
  fc.uuid(),
  nearlyGrammatical,
  nearlyGrammatical.map((text) => `"${text}"`),
  nearlyGrammatical.map((text) => `"abc";a=${text}`),
  fc.string({ maxLength: 40 }),
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.integer({ min: 250, max: 260 }).map((length) => 'k'.repeat(length)),
  fc.integer({ min: 250, max: 260 }).map((length) => `"${'k'.repeat(length)}"`),
);

/** Cuts, doubles, moves and swaps pieces of values, so that most results are nearly right. */
function mutate(value: string, other: string, random: () => number): string {
  const below = (limit: number): number => Math.floor(random() * limit);
  const [one = 0, two = 0] = [below(value.length + 1), below(value.length + 1)].toSorted((a, b) => a - b);
  const inside = value.slice(one, two);
  const [before, after] = [value.slice(0, one), value.slice(two)];
  const grammar = [' ', '"', '\\', ';', '=', '\t', 'é', '\x01', ',', '"a"', ';a=1', '\\"'];
  switch (below(9)) {
    case 0:
      return before + after;
    case 1:
      return before + inside + inside + after;
    case 2:
      return after + inside + before;
    case 3:
      return before + grammar[below(grammar.length)]! + inside + after;
    case 4:
      return before + other.slice(below(other.length)) + after;
    case 5:
      return `"${value.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
    case 6:
      return value.trim();
    case 7:
      return (value + other).repeat(below(40) + 1);
    default:
      return `${value};p${below(10)}=${other}`;
  }
}

/** A small generator of its own, so that the values follow from the seed. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/** One value in five comes from fast-check, the others are made of those by mutation. */
export function headerValues(count: number, seed: number): string[] {
  const random = randomFrom(seed);
  const values = fc.sample(headerValue, { numRuns: Math.ceil(count / 5), seed });
  while (values.length < count) {
    const pick = (): string => values[Math.floor(random() * values.length)]!;
    values.push(mutate(pick(), pick(), random).slice(0, 20_000));
  }
  return values;
}

export const REASONS = [
  'it is empty',
  'it is longer than 255 characters',
  'it must consist of printable ASCII characters, without spaces at its ends',
  'it starts with a quote, but is not a String as RFC 9651 defines it',
];
