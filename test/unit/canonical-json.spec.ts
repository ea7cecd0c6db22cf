import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import * as fc from 'fast-check';
import { writeCanonicalJson } from '../../src/http/canonical-json.js';

function canonical(value: unknown): string {
  const chunks: string[] = [];
  writeCanonicalJson(value, (chunk) => chunks.push(chunk));
  return chunks.join('');
}

function fromBits(bits: string): number {
  return Buffer.from(bits, 'hex').readDoubleBE();
}

/** What RFC 8785 prescribes, by the shortest way: a recursive one that JSON.stringify() does most of. */
function sortedByRecursion(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(sortedByRecursion).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value).toSorted(([one], [other]) => (one < other ? -1 : 1));
  return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${sortedByRecursion(member)}`).join(',')}}`;
}

/** The same value with the members of every object in another order. */
function shuffled(value: unknown, order: (count: number) => number): unknown {
  if (Array.isArray(value)) return value.map((item) => shuffled(item, order));
  if (typeof value !== 'object' || value === null) return value;
  const rest = Object.entries(value);
  const members: [string, unknown][] = [];
  while (rest.length > 0) {
    const [[name, member]] = rest.splice(order(rest.length), 1) as [[string, unknown]];
    members.push([name, shuffled(member, order)]);
  }
  // Unlike assignment, this makes `__proto__` a member.
  return Object.fromEntries(members);
}

describe('the examples of RFC 8785', () => {
  it('gives the object of section 3.2.2', () => {
    const source = String.raw`{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }`;

    expect(canonical(JSON.parse(source))).toBe(
      String.raw`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
    );
  });

  it('sorts the members of section 3.2.3 by UTF-16 code units, so that an emoji comes before U+FB33', () => {
    const source = String.raw`{
      "\u20ac": "Euro Sign",
      "\r": "Carriage Return",
      "\ufb33": "Hebrew Letter Dalet With Dagesh",
      "1": "One",
      "\ud83d\ude00": "Emoji: Grinning Face",
      "\u0080": "Control",
      "\u00f6": "Latin Small Letter O With Diaeresis"
    }`;
    expect([...canonical(JSON.parse(source)).matchAll(/:"([^"]*)"/g)].map(([, text]) => text)).toEqual([
      'Carriage Return',
      'One',
      'Control',
      'Latin Small Letter O With Diaeresis',
      'Euro Sign',
      'Emoji: Grinning Face',
      'Hebrew Letter Dalet With Dagesh',
    ]);
  });

  it.each([
    ['0000000000000000', '0'],
    ['8000000000000000', '0'],
    ['0000000000000001', '5e-324'],
    ['8000000000000001', '-5e-324'],
    ['7fefffffffffffff', '1.7976931348623157e+308'],
    ['ffefffffffffffff', '-1.7976931348623157e+308'],
    ['4340000000000000', '9007199254740992'],
    ['c340000000000000', '-9007199254740992'],
    ['4430000000000000', '295147905179352830000'],
    ['44b52d02c7e14af5', '9.999999999999997e+22'],
    ['44b52d02c7e14af6', '1e+23'],
    ['44b52d02c7e14af7', '1.0000000000000001e+23'],
    ['444b1ae4d6e2ef4e', '999999999999999700000'],
    ['444b1ae4d6e2ef4f', '999999999999999900000'],
    ['444b1ae4d6e2ef50', '1e+21'],
    ['3eb0c6f7a0b5ed8c', '9.999999999999997e-7'],
    ['3eb0c6f7a0b5ed8d', '0.000001'],
    ['41b3de4355555553', '333333333.3333332'],
    ['41b3de4355555554', '333333333.33333325'],
    ['41b3de4355555555', '333333333.3333333'],
    ['41b3de4355555556', '333333333.3333334'],
    ['41b3de4355555557', '333333333.33333343'],
    ['becbf647612f3696', '-0.0000033333333333333333'],
    ['43143ff3c1cb0959', '1424953923781206.2'],
  ])('writes the number %s of appendix B as %s', (bits, text) => {
    expect(canonical(fromBits(bits))).toBe(text);
  });

  it.each([
    ['members at every level', '{"1":{"f":{"f":"hi","F":5},"\\n":56.0},"10":{},"":"empty","a":{},"111":[{}],"A":{}}'],
    ['names by code unit, not by locale', '{"peach":1,"péché":2,"pêche":3,"sin":4}'],
    ['an array in its own order', '[56,{"d":true,"10":null,"1":[]}]'],
  ])('sorts %s', (_, source) => {
    const value: unknown = JSON.parse(source);

    expect(canonical(value)).toBe(sortedByRecursion(value));
  });
});

describe('any JSON text', () => {
  const json = fc.jsonValue({ maxDepth: 5, stringUnit: 'binary' });
  const order = fc.infiniteStream(fc.nat()).map((stream) => (count: number) => stream.next().value! % count);

  it('is written as the simplest implementation of the RFC would', () => {
    fc.assert(fc.property(json, (value) => expect(canonical(value)).toBe(sortedByRecursion(value))));
  });

  it('is written the same however its members are shuffled', () => {
    fc.assert(
      fc.property(json, order, (value, next) => expect(canonical(shuffled(value, next))).toBe(canonical(value))),
    );
  });

  it('reads back as the value it was', () => {
    fc.assert(fc.property(json, (value) => expect(JSON.parse(canonical(value))).toEqual(reparsed(value))));
  });

  it('differs from every text with another value', () => {
    // So few characters that a good part of the pairs are equal.
    const similar = fc.jsonValue({ maxDepth: 1, stringUnit: fc.constantFrom('"', ',') });
    const pair = fc.oneof(fc.tuple(json, json), fc.tuple(similar, similar));
    fc.assert(
      fc.property(pair, ([one, other]) => {
        expect(canonical(one) === canonical(other)).toBe(isDeepStrictEqual(reparsed(one), reparsed(other)));
      }),
      { numRuns: 2_000 },
    );
  });

  it('is written in pieces that can be encoded one by one', () => {
    const value = Array.from({ length: 3_000 }, (_, i) => ({ '😀': '😀'.repeat(i % 50), n: i }));
    const pieces: Buffer[] = [];
    writeCanonicalJson(value, (chunk) => pieces.push(Buffer.from(chunk)));

    expect(pieces.length).toBeGreaterThan(5);
    expect(Buffer.concat(pieces).toString()).toBe(sortedByRecursion(value));
  });

  it.each([3, 24, 25, 1_000])('has its %i members sorted in whatever order they come', (count) => {
    const names = Array.from({ length: count }, (_, i) => `${(i * 7_919) % 10_007}`);
    const object = Object.fromEntries(names.map((name) => [`m${name}`, name]));

    expect(canonical(object)).toBe(sortedByRecursion(object));
  });
});

describe('what an attacker may send', () => {
  it.each([
    ['arrays', '['.repeat(524_288), ']'.repeat(524_288)],
    ['objects', '{"":'.repeat(200_000) + '1', '}'.repeat(200_000)],
  ])('is written without recursion: 1 MiB of nested %s', (_, opening, closing) => {
    expect(canonical(JSON.parse(opening + closing)) === opening + closing).toBe(true);
  });

  it('is written in linear time: four times the members take nowhere near sixteen times as long', () => {
    // Both too large for a processor's cache, which on a busy machine makes the smaller one seem cheap.
    expect(processorMs(80_000)).toBeLessThan(12 * Math.max(processorMs(20_000), 1));
  });

  it('counts a member named __proto__ like any other', () => {
    expect(canonical(JSON.parse('{"b":1,"__proto__":{"a":1}}'))).toBe('{"__proto__":{"a":1},"b":1}');
    expect(canonical(JSON.parse('{"__proto__":{"a":2},"b":1}'))).not.toBe('{"__proto__":{"a":1},"b":1}');
  });

  it('takes members named toJSON, constructor and length for what they are', () => {
    const source = '{"constructor":{"name":"Array"},"length":3,"toJSON":"x"}';

    expect(canonical(JSON.parse(source))).toBe(source);
  });

  it('keeps lone surrogates apart, from each other and from the text of their escapes', () => {
    const texts = [String.raw`"\ud800"`, String.raw`"\udfff"`, String.raw`"\\ud800"`, '"\ufffd"'];
    const written = texts.map((text) => canonical(JSON.parse(text)));

    expect(written).toEqual(texts);
    expect(new Set(written.map((text) => Buffer.from(text).toString('hex'))).size).toBe(texts.length);
  });

  it('keeps numbers apart that overflow', () => {
    expect(canonical(JSON.parse('[1e999,-1e999,null]'))).toBe('[Infinity,-Infinity,null]');
  });
});

describe('what only an application can hand over', () => {
  class Money {
    private readonly currency = 'EUR';
    constructor(readonly amount: bigint) {}
    get cents(): bigint {
      return this.amount;
    }
    describe(): string {
      return `${this.amount} ${this.currency}`;
    }
  }

  it.each([
    [
      'leaves out undefined, functions and symbols as members',
      { b: undefined, c: () => 1, d: Symbol('d'), a: 1 },
      '{"a":1}',
    ],
    ['makes null of them in an array', [undefined, () => 1, Symbol('s')], '[null,null,null]'],
    ['makes null of them alone', undefined, 'null'],
    ['makes null of the gaps of an array', [, 1], '[null,1]'], // oxlint-disable-line no-sparse-arrays
    ['asks a Date for its JSON', { at: new Date(0) }, '{"at":"1970-01-01T00:00:00.000Z"}'],
    ['asks a Buffer for its JSON', Buffer.from([1, 2]), '{"data":[1,2],"type":"Buffer"}'],
    ['takes the fields of a class instance, not its accessors', new Money(5n), '{"amount":5n,"currency":"EUR"}'],
    ['tells a BigInt from a number', [1n, 1, '1n'], '[1n,1,"1n"]'],
    ['tells NaN from null', [Number.NaN, null], '[NaN,null]'],
    ['lists the entries of a Map', new Map([['b', 1], ['a', 2]]), '[["b",1],["a",2]]'], // prettier-ignore
    ['lists the members of a Set', { ids: new Set([2, 1]) }, '{"ids":[2,1]}'],
    ['lists the parameters of URLSearchParams', new URLSearchParams('b=1&a=2'), '[["b","1"],["a","2"]]'],
    ['lists the numbers of a typed array', new Uint8Array([1, 2]), '[1,2]'],
    ['takes the value out of a wrapper object', [Object(1), Object('a'), Object(true)], '[1,"a",true]'],
    ['takes an object without prototype', Object.assign(Object.create(null), { a: 1 }), '{"a":1}'],
  ])('%s', (_, value: unknown, text) => {
    expect(canonical(value)).toBe(text);
  });

  it('calls toJSON() with the name of the member, and only once', () => {
    const calls: unknown[] = [];
    const member = { toJSON: (name: unknown) => (calls.push(name), { toJSON: 'not called again' }) };

    expect(canonical({ a: member, list: [member] })).toBe(
      '{"a":{"toJSON":"not called again"},"list":[{"toJSON":"not called again"}]}',
    );
    expect(calls).toEqual(['a', '0']);
  });

  it('leaves out a member whose toJSON() returns undefined', () => {
    expect(canonical({ a: { toJSON: () => undefined }, b: 1 })).toBe('{"b":1}');
  });

  it('writes an object that is referred to from several places wherever it is', () => {
    const address = { city: 'Berlin', lines: [['Hauptstraße 5']] };
    let nested: unknown = address;
    for (let depth = 0; depth < 10; depth++) nested = [nested, nested];

    expect(canonical({ billing: address, shipping: address })).toBe(
      sortedByRecursion({ billing: address, shipping: address }),
    );
    expect(canonical(nested)).toBe(sortedByRecursion(nested));
  });

  it('refuses a cycle, wherever it begins and however long it is', () => {
    for (let before = 0; before < 12; before++) {
      for (let length = 1; length < 40; length++) {
        const cycle: unknown[] = ['first'];
        let inner: unknown = cycle;
        for (let step = 1; step < length; step++) inner = { step, inner };
        cycle.push(inner);
        let outer: unknown = cycle;
        for (let step = 0; step < before; step++) outer = [step, outer];

        expect(() => canonical(outer)).toThrow(TypeError);
      }
    }
  });

  it('refuses a cycle through a Map or through toJSON()', () => {
    const map = new Map<string, unknown>();
    map.set('self', map);
    const asset = { toJSON: (): unknown => ({ asset }) };

    expect(() => canonical(map)).toThrow(TypeError);
    expect(() => canonical(asset)).toThrow(TypeError);
  });
});

/** JSON knows one zero, and no objects without a prototype. */
function reparsed(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}

/** Of this process, so that what else the machine does is no part of it. */
function processorMs(memberCount: number): number {
  const members = Array.from({ length: memberCount }, (_, i) => `"k${memberCount - i}":[${i}]`);
  const value: unknown = JSON.parse(`{${members.join(',')}}`);
  const samples = Array.from({ length: 5 }, () => {
    const before = process.cpuUsage();
    canonical(value);
    return process.cpuUsage(before).user / 1_000;
  });
  return Math.min(...samples);
}
