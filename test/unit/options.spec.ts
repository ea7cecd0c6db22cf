import { readFileSync } from 'node:fs';
import { inspect } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import * as fc from 'fast-check';
import ts from 'typescript';
import { DEFAULT_OPTIONS, mergeRouteOptions } from '../../src/protocol/options.js';
import { IdempotencyOptionError, validateModuleOptions, validateRouteOptions } from '../../src/options-validation.js';
import { read, tableOf } from '../docs/pages.js';

const DAY_MS = 24 * 60 * 60 * 1000;
const noop = () => '';

interface Expectation {
  accepts: unknown[];
  refuses: unknown[];
  /** What the message says to do instead. */
  remedy: string;
  /** Whether the message must not quote it. */
  isSecret?: boolean;
}

const aFunction: Omit<Expectation, 'remedy'> = {
  accepts: [noop, async () => '', class {}],
  refuses: [null, 'user', { id: 1 }, 7, Promise.resolve('')],
};

const wholeNumber = (min: number, max: number): Omit<Expectation, 'remedy'> => ({
  accepts: [min, min + 1, max - 1, max],
  refuses: [min - 1, max + 1, min + 0.5, Number.NaN, Number.POSITIVE_INFINITY, String(min), BigInt(min), null, [min]],
});

const ROUTE_OPTIONS: Record<string, Expectation> = {
  mode: {
    accepts: ['transaction', 'lease', 'observe'],
    refuses: ['Lease', '', true, null, ['lease']],
    remedy: "'transaction', 'lease', 'observe'",
  },
  leaseMs: { ...wholeNumber(100, 3_600_000), remedy: 'a whole number of milliseconds from 100 to 3600000' },
  stepTimeoutMs: { ...wholeNumber(1, 2_147_000_000), remedy: 'a whole number of milliseconds from 1 to 2147000000' },
  maxStepsBytes: { ...wholeNumber(1, 100 * 1024 * 1024), remedy: 'a whole number of bytes from 1 to 104857600' },
  onInterrupted: { accepts: ['resume', 'fail'], refuses: ['retry', '', true, null], remedy: "'resume', 'fail'" },
  header: {
    accepts: ['Idempotency-Key', 'X-Request-ID', 'x_1.~!'],
    refuses: ['', 'Idempotency Key', 'Key:', 'Schlüssel', 'a\r\nb', 7, null, ['Idempotency-Key']],
    remedy: "the name of a request header, such as 'Idempotency-Key'",
  },
  replayedHeader: {
    accepts: ['Idempotent-Replayed', 'x-replayed'],
    refuses: ['', 'Idempotent Replayed', 'Idempotent-Replayed:', true, null],
    remedy: "the name of a response header, such as 'Idempotency-Replayed'",
  },
  expiresHeader: {
    accepts: ['Idempotency-Expires', 'x-kept-until', false],
    refuses: ['', 'Idempotency Expires', 'Expires:', true, null],
    remedy: "false, or the name of a response header, such as 'Idempotency-Expires'",
  },
  key: { ...aFunction, remedy: 'a function that takes the ExecutionContext and returns the key' },
  keyPattern: {
    accepts: [/^[0-9a-f-]{36}$/, /x/i, /x/u],
    refuses: [/x/g, /x/y, '^x$', null, {}],
    remedy: 'a regular expression without the flags g and y',
  },
  required: { accepts: [true, false], refuses: ['true', 1, 0, null, {}], remedy: 'true or false' },
  scope: { ...aFunction, remedy: 'a function that takes the ExecutionContext and returns whose key it is' },
  sharedScope: { accepts: ['warn', 'error'], refuses: ['allow', true, null, {}], remedy: "'warn', 'error'" },
  fingerprint: {
    accepts: [
      ...aFunction.accepts,
      { omit: ['sentAt'] },
      { pick: ['meta.id', 'type'] },
      { omit: ['a'], pick: undefined },
    ],
    refuses: [
      ...aFunction.refuses,
      {},
      { omit: [] },
      { omit: 'sentAt' },
      { omit: [1] },
      { omit: [''] },
      { omit: ['meta.'] },
      { pick: ['a'], omit: ['b'] },
      { pick: undefined },
      { only: ['a'] },
    ],
    remedy:
      "a function that takes the ExecutionContext and returns what a retry must repeat, or { omit } or { pick }, a list of fields of the body, such as 'meta.sentAt'",
  },
  ttlMs: { ...wholeNumber(1, 3650 * DAY_MS), remedy: 'a whole number of milliseconds from 1 to 315360000000' },
  inFlight: {
    accepts: ['reject', { waitMs: 1 }, { waitMs: 60_000 }],
    refuses: [
      'wait',
      true,
      null,
      {},
      [],
      ['reject'],
      { waitMs: undefined },
      { waitMs: 0 },
      { waitMs: 60_001 },
      { waitMs: '5' },
      { waitMs: 5, pollMs: 1 },
      { waitMs: 5, toString: noop },
    ],
    remedy: "'reject' or { waitMs: a whole number of milliseconds from 1 to 60000 }",
  },
  storeErrors: { ...aFunction, remedy: 'a function that takes a status and returns whether that error is stored' },
  isolation: {
    accepts: ['READ UNCOMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'],
    refuses: ['serializable', 'SNAPSHOT', '', 3, null, ['SERIALIZABLE']],
    remedy: "'READ UNCOMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'",
  },
  retries: { ...wholeNumber(0, 20), remedy: 'a whole number from 0 to 20' },
  timeoutMs: { ...wholeNumber(1, 2_147_000_000), remedy: 'a whole number of milliseconds from 1 to 2147000000' },
  store: { accepts: [true, false], refuses: ['true', 1, null, noop], remedy: 'true or false' },
  redact: { ...aFunction, remedy: 'a function that takes a response and returns what of it is stored' },
  authorizeReplay: {
    ...aFunction,
    remedy: 'a function that takes the ExecutionContext and what is recorded, and returns true or false',
  },
  maxInFlight: { ...wholeNumber(1, 100_000), remedy: 'a whole number from 1 to 100000' },
  maxBodyBytes: { ...wholeNumber(0, 100 * 1024 * 1024), remedy: 'a whole number of bytes from 0 to 104857600' },
  maxHeldBytes: { ...wholeNumber(0, 1024 * 1024 * 1024), remedy: 'a whole number of bytes from 0 to 1073741824' },
  replayHeaders: {
    accepts: [{}, { keep: [] }, { keep: ['Set-Cookie'], drop: ['X-Secret'] }, { keep: undefined }],
    refuses: [
      [],
      null,
      'Set-Cookie',
      { keep: 'Set-Cookie' },
      { drop: ['X Secret'] },
      { drop: [7] },
      { keep: null },
      { only: ['ETag'] },
      { constructor: ['ETag'] },
    ],
    remedy: '{ keep, drop }, each a list of header names',
  },
};

const MODULE_ONLY_OPTIONS: Record<string, Expectation> = {
  dataSource: {
    accepts: ['default', 'ledger'],
    refuses: ['', 7, null, {}, noop],
    remedy: 'the name of a DataSource, as given to TypeOrmModule.forRoot({ name })',
  },
  schema: {
    accepts: ['infra', 'My "odd" schema', 'ä'.repeat(31), 'x'.repeat(63)],
    refuses: ['', 'x'.repeat(64), 'ä'.repeat(32), 'a\0b', 7, null],
    remedy: 'the name of a PostgreSQL schema, 1 to 63 bytes',
  },
  problemBaseUrl: {
    accepts: ['https://api.example.com/problems/', 'https://api.example.com/problems#', 'urn:example:problems:'],
    refuses: [
      '',
      'problems/',
      '/problems/',
      '//api.example.com/',
      'https://api.example.com/my problems/',
      'urn:',
      7,
      null,
    ],
    remedy: "an absolute URL or URN, such as 'https://api.example.com/problems/'",
  },
  onEvent: { ...aFunction, remedy: 'a function that takes an event' },
  hashSecret: {
    accepts: ['x'.repeat(16)],
    refuses: ['', 'x'.repeat(15), 7, null, ['x'.repeat(16)], Buffer.alloc(32)],
    remedy: 'a text of at least 16 characters',
    isSecret: true,
  },
  fingerprintSecret: {
    accepts: ['x'.repeat(16)],
    refuses: ['', 'x'.repeat(15), 7, null],
    remedy: 'a text of at least 16 characters',
    isSecret: true,
  },
  encryption: {
    accepts: [
      { keys: { '2026': Buffer.alloc(32) }, currentKeyId: '2026' },
      { keys: { a: Buffer.alloc(32).toString('base64'), b: new Uint8Array(32) }, currentKeyId: 'b' },
      { keys: { a: Buffer.alloc(32) } },
    ],
    refuses: [
      null,
      {},
      { keys: {} },
      { keys: { a: Buffer.alloc(31) }, currentKeyId: 'a' },
      { keys: { a: 'short' }, currentKeyId: 'a' },
      { keys: { a: Buffer.alloc(32) }, currentKeyId: 'b' },
      { keys: { a: Buffer.alloc(32) }, currentKeyId: 'toString' },
      { keys: [Buffer.alloc(32)], currentKeyId: '0' },
      { keys: { a: Buffer.alloc(32) }, algorithm: 'aes-256-gcm' },
    ],
    remedy: '{ keys, currentKeyId }, each of the keys 32 bytes or the base64 of them, and the id of one of them',
    isSecret: true,
  },
  purge: {
    accepts: [false, {}, { intervalMs: 1_000 }, { intervalMs: DAY_MS, batchSize: 1 }, { batchSize: 100_000 }],
    refuses: [
      true,
      null,
      [],
      'off',
      60_000,
      { intervalMs: 999 },
      { intervalMs: DAY_MS + 1 },
      { batchSize: 0 },
      { batchSize: 100_001 },
      { batchSize: null },
      { interval: 60_000 },
      { valueOf: 1 },
    ],
    remedy:
      'false or { intervalMs: a whole number of milliseconds from 1000 to 86400000, batchSize: a whole number from 1 to 100000 }',
  },
  localWrites: { accepts: [true, false], refuses: ['false', 0, null, []], remedy: 'true or false' },
};

const MODULE_OPTIONS = { ...ROUTE_OPTIONS, ...MODULE_ONLY_OPTIONS };

const asModule = (options: object) => validateModuleOptions(options);
const asRoute = (options: object) => validateRouteOptions(options, 'PaymentsController.create');

const LEVELS: [
  level: string,
  validate: (options: object) => void,
  options: Record<string, Expectation>,
  where: string,
][] = [
  ['the module', asModule, MODULE_OPTIONS, 'IdempotencyModule'],
  ['a route', asRoute, ROUTE_OPTIONS, '@Idempotent() of PaymentsController.create'],
];

type Case = [name: string, shown: string, value: unknown, message: string];

const cases = (options: Record<string, Expectation>, which: 'accepts' | 'refuses'): Case[] =>
  Object.entries(options).flatMap(([name, expectation]) =>
    expectation[which].map((value): Case => {
      const shown = inspect(value);
      return [name, shown, value, `${expectation.remedy}${expectation.isSecret ? '' : `, not ${shown}`}.`];
    }),
  );

/** What `validate` threw, or undefined. */
function errorOf(validate: () => void): unknown {
  try {
    validate();
    return undefined;
  } catch (error) {
    return error;
  }
}

describe.each(LEVELS)('an option of %s', (_, validate, options, where) => {
  it.each(cases(options, 'accepts'))('takes %s: %s', (name, _shown, value) => {
    expect(() => validate({ [name]: value })).not.toThrow();
  });

  it.each(cases(options, 'refuses'))('refuses %s: %s, and says what to give', (name, _shown, value, message) => {
    const error = errorOf(() => validate({ [name]: value }));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect((error as Error).message).toBe(`${where}: option '${name}' must be ${message}`);
  });

  it.each(Object.keys(options))('may be given as undefined, which is as good as not given: %s', (name) => {
    expect(() => validate({ [name]: undefined })).not.toThrow();
  });

  it('may be left out, as all others may', () => {
    expect(() => validate({})).not.toThrow();
  });

  it.each(['ttl', 'TtlMs', 'ttlms', 'keyPatern', 'stores', 'isGlobal', '', '__proto__', 'constructor', 'toString'])(
    'that does not exist is refused with a list of those that do: %j',
    (name) => {
      const given = Object.fromEntries([[name, undefined]]);
      expect(Object.keys(given)).toEqual([name]);
      const error = errorOf(() => validate(given));
      expect(error).toBeInstanceOf(IdempotencyOptionError);
      expect((error as Error).message).toBe(
        `${where}: there is no option '${name}'. The options are ${Object.keys(options).join(', ')}.`,
      );
    },
  );

  it.each([null, undefined, 'ttlMs', 7, [], noop])('comes in an object, not in %p', (given) => {
    const error = errorOf(() => validate(given as unknown as object));
    expect(error).toBeInstanceOf(IdempotencyOptionError);
    expect((error as Error).message).toBe(`${where}: the options must be an object, not ${inspect(given)}.`);
  });

  it('is valid exactly if it would be on its own, whatever else is given', () => {
    fc.assert(
      fc.property(someOptions, (given) => {
        const error = errorOf(() => validate(given));
        const errorsAlone = Object.entries(given).map(([name, value]) =>
          errorOf(() => validate(Object.fromEntries([[name, value]]))),
        );
        for (const thrown of [error, ...errorsAlone]) {
          expect(thrown === undefined || thrown instanceof IdempotencyOptionError).toBe(true);
        }
        // The first wrong one is what the message is about.
        const first = errorsAlone.find((thrown) => thrown !== undefined);
        expect((error as Error | undefined)?.message).toBe((first as Error | undefined)?.message);
      }),
      { numRuns: 1_000 },
    );
  });
});

/** Names and values that are right, that are nearly right, and that are anything. */
const someName = fc.oneof(
  fc.constantFrom(...Object.keys(MODULE_OPTIONS)),
  fc.constantFrom('waitMs', 'intervalMs', 'batchSize', 'keep', 'drop'),
  fc.constantFrom('constructor', 'toString', 'valueOf', 'hasOwnProperty', '__proto__'),
  fc.string(),
);
const someValue = fc.oneof(
  fc.constantFrom(...Object.values(MODULE_OPTIONS).flatMap(({ accepts, refuses }) => [...accepts, ...refuses])),
  fc.anything({
    key: someName,
    withBigInt: true,
    withBoxedValues: true,
    withDate: true,
    withMap: true,
    withSet: true,
    withNullPrototype: true,
    withSparseArray: true,
    withTypedArray: true,
  }),
);
const someOptions = fc.dictionary(someName, someValue, { maxKeys: 5 });

it.each(Object.keys(MODULE_ONLY_OPTIONS))('%s belongs to the module: a route has no such option', (name) => {
  const [value] = MODULE_ONLY_OPTIONS[name]!.accepts;
  expect(() => asModule({ [name]: value })).not.toThrow();
  expect(() => asRoute({ [name]: value })).toThrow(
    `@Idempotent() of PaymentsController.create: there is no option '${name}'.`,
  );
});

describe('merged options', () => {
  it('are the defaults where nothing is given, or only undefined', () => {
    const { problemBaseUrl: _url, purge: _purge, localWrites: _local, ...ofRoutes } = DEFAULT_OPTIONS;
    expect(mergeRouteOptions()).toEqual(ofRoutes);
    const undefinedOnes = Object.fromEntries(Object.keys(ROUTE_OPTIONS).map((name) => [name, undefined]));
    expect(mergeRouteOptions(undefined, undefinedOnes, undefined)).toEqual(ofRoutes);
  });

  it('are those of the last that gives one: the method, then its class, then the module', () => {
    const merged = mergeRouteOptions(
      { ttlMs: 1, timeoutMs: 1, retries: 1, required: false },
      { ttlMs: 2, timeoutMs: 2, required: undefined },
      { ttlMs: 3 },
    );
    expect(merged).toMatchObject({ ttlMs: 3, timeoutMs: 2, retries: 1, required: false, inFlight: 'reject' });
  });

  it('leave what was given as it was', () => {
    const given = Object.freeze({ ttlMs: 1 });
    mergeRouteOptions(given, { ttlMs: 2 });
    expect(given).toEqual({ ttlMs: 1 });
    expect(mergeRouteOptions().ttlMs).toBe(DEFAULT_OPTIONS.ttlMs);
  });
});

interface Documented {
  text: string;
  /** Of the tag `@default`. */
  fallback: string;
}

/** The TSDoc of every property of an interface in src/protocol/options.ts. */
function documentationOf(interfaceName: string): Record<string, Documented> {
  const file = new URL('../../src/protocol/options.ts', import.meta.url);
  const source = ts.createSourceFile('options.ts', readFileSync(file, 'utf8'), ts.ScriptTarget.Latest, true);
  const declaration = source.statements.find(
    (statement): statement is ts.InterfaceDeclaration =>
      ts.isInterfaceDeclaration(statement) && statement.name.text === interfaceName,
  )!;
  return Object.fromEntries(
    declaration.members.map((member) => {
      const [comment] = ts.getJSDocCommentsAndTags(member).filter(ts.isJSDoc);
      const tag = ts.getJSDocTags(member).find(({ tagName }) => tagName.text === 'default');
      return [
        (member.name as ts.Identifier).text,
        {
          text: ts.getTextOfJSDocComment(comment?.comment) ?? '',
          fallback: ts.getTextOfJSDocComment(tag?.comment) ?? '',
        },
      ];
    }),
  );
}

const UNITS: Record<string, number> = { s: 1_000, min: 60 * 1_000, h: 60 * 60 * 1_000, MiB: 1024 * 1024 };

/** A default that is a value rather than a phrase. */
const LITERAL = /^(?:['"\d{[]|true\b|false\b)/;

/** `86400000 (24 h)`: the value as in code, and once more for people. */
function parseDefault(documented: string): { value: string; human?: string; humanValue?: number } {
  const [, value, human, count, unit] = /^(\S+) \(((\d+) (\w+))\)$/.exec(documented) ?? [];
  return value === undefined
    ? { value: documented }
    : { value, human, humanValue: Number(count) * (UNITS[unit!] ?? Number.NaN) };
}

describe('the documentation of the options', () => {
  const ofRoutes = documentationOf('IdempotentOptions');
  const ofModule = { ...ofRoutes, ...documentationOf('IdempotencyModuleOptions') };
  const ofPurge = documentationOf('PurgeOptions');

  it('is there for every option of the code, and for no other', () => {
    expect(Object.keys(ofRoutes).toSorted()).toEqual(Object.keys(ROUTE_OPTIONS).toSorted());
    expect(Object.keys(ofModule).toSorted()).toEqual(Object.keys(MODULE_OPTIONS).toSorted());
    for (const { text, fallback } of Object.values({ ...ofModule, ...ofPurge })) {
      expect(text).not.toBe('');
      expect(fallback).not.toBe('');
    }
  });

  const named = Object.entries(ofModule).map(([name, { fallback }]) => ({ name, ...parseDefault(fallback) }));
  const inCode: Record<string, unknown> = DEFAULT_OPTIONS;

  it.each(named.filter(({ name }) => name in inCode && name !== 'purge'))(
    'gives the default of $name that the code has',
    ({ name, value, humanValue }) => {
      expect(value).toBe(inspect(inCode[name]));
      expect([undefined, inCode[name]]).toContain(humanValue);
    },
  );

  it.each(named.filter(({ name }) => !(name in inCode)))(
    'describes the default of $name, which is no value in the code',
    ({ value }) => {
      expect(value).not.toMatch(LITERAL);
    },
  );

  it('gives the defaults of purge that the code has', () => {
    const { intervalMs, batchSize } = DEFAULT_OPTIONS.purge;
    expect(ofPurge.intervalMs?.fallback).toBe(String(intervalMs));
    expect(ofPurge.batchSize?.fallback).toBe(String(batchSize));
    expect(ofModule.purge?.fallback).toBe(`every ${intervalMs / 60_000} minutes, ${batchSize} rows a statement`);
  });

  const wrap: Record<string, (value: number) => object> = {
    inFlight: (waitMs) => ({ inFlight: { waitMs } }),
    intervalMs: (intervalMs) => ({ purge: { intervalMs } }),
    batchSize: (batchSize) => ({ purge: { batchSize } }),
  };

  const bounded = Object.entries({ ...ofModule, ...ofPurge })
    .filter(([name, { text }]) => name !== 'keyPattern' && /\d to \d/.test(text))
    .map(([name]) => name);

  it('gives bounds for each option that is a number', () => {
    const numbers = Object.entries(DEFAULT_OPTIONS).filter(([, value]) => typeof value === 'number');
    const wanted = [...numbers.map(([name]) => name), 'inFlight', 'maxInFlight', 'intervalMs', 'batchSize'];
    expect(bounded.toSorted()).toEqual(wanted.toSorted());
  });

  it.each(bounded)('gives the bounds of %s that the code has', (name) => {
    const { text } = { ...ofModule, ...ofPurge }[name]!;
    const [, min, max, years] = /(\d[\d,]*) to (\d[\d,]*)( years)?/.exec(text) ?? [];
    const lowest = Number(min!.replaceAll(',', ''));
    const highest = Number(max!.replaceAll(',', '')) * (years === undefined ? 1 : 365 * DAY_MS);
    const given = wrap[name] ?? ((value: number) => ({ [name]: value }));

    for (const value of [lowest, highest]) expect(() => asModule(given(value))).not.toThrow();
    for (const value of [lowest - 1, highest + 1]) expect(() => asModule(given(value))).toThrow(IdempotencyOptionError);
  });

  const inDocs = optionTable(read('docs/options.md')).map((row) => ({
    ...row,
    ...parseDefault(ofModule[row.name]?.fallback ?? ''),
  }));

  it('is in docs/options.md, too, for every option and for no other, and says where it may be given', () => {
    expect(inDocs.map(({ name, where }) => `${name}: ${where}`).toSorted()).toEqual(
      Object.keys(ofModule)
        .map((name) => `${name}: ${name in ofRoutes ? 'both' : 'module'}`)
        .toSorted(),
    );
  });

  it.each(inDocs.filter(({ value }) => LITERAL.test(value)))(
    'gives the default of $name in docs/options.md that the code has',
    ({ cell, value, human = value }) => {
      expect([value, human].some((written) => plain(cell).includes(plain(written)))).toBe(true);
    },
  );

  it('gives the default of purge in docs/options.md that the code has', () => {
    const cell = inDocs.find(({ name }) => name === 'purge')!.cell;
    expect(plain(cell)).toBe(inspect(DEFAULT_OPTIONS.purge));
  });

  it('describes the other defaults in docs/options.md as an editor shows them', () => {
    const others = inDocs.filter(({ name, value }) => name !== 'purge' && !LITERAL.test(value));
    expect(others.map(({ name, cell }) => [name, cell])).toEqual(
      others.map(({ name }) => [name, ofModule[name]!.fallback.replaceAll(/\s+/g, ' ')]),
    );
  });

  it.each(inDocs)('says in docs/options.md of $name what an editor shows', ({ name, what }) => {
    expect(what).toBe(ofModule[name]!.text.replaceAll(/\s+/g, ' '));
  });

  const parts: Record<string, Record<string, Documented>> = {
    purge: ofPurge,
    replayHeaders: documentationOf('ReplayHeaders'),
    encryption: documentationOf('EncryptionOptions'),
  };
  const inParts = tableOf(read('docs/options.md'), 'part', 'default').map(([part = '', fallback = '', what = '']) => ({
    part: plain(part),
    fallback: plain(fallback),
    what,
  }));

  it('is in docs/options.md for every part of an option that is an object', () => {
    const declared = Object.entries(parts).flatMap(([name, of]) => Object.keys(of).map((part) => `${name}.${part}`));
    const union = ['fingerprint.omit', 'fingerprint.pick', 'inFlight.waitMs'];
    expect(inParts.map(({ part }) => part).toSorted()).toEqual([...declared, ...union].toSorted());
  });

  it.each(inParts.filter(({ part }) => Object.hasOwn(parts, part.split('.')[0]!)))(
    'says in docs/options.md of $part what an editor shows',
    ({ part, fallback, what }) => {
      const [name = '', member = ''] = part.split('.');
      const documented = parts[name]![member]!;
      expect(what).toBe(documented.text.replaceAll(/\s+/g, ' '));
      expect(fallback.split(' (')[0]).toBe(documented.fallback === '' ? 'none' : documented.fallback);
    },
  );
});

interface DocumentedRow {
  name: string;
  where: string;
  /** Of the column of defaults. */
  cell: string;
  what: string;
}

/** The rows of the table whose first columns are option, where and default. */
function optionTable(markdown: string): DocumentedRow[] {
  return tableOf(markdown, 'option', 'where', 'default').map(([name = '', where = '', cell = '', what = '']) => ({
    name: plain(name),
    where,
    cell,
    what,
  }));
}

/** Without what typography adds: code marks, quotes, and separators of thousands. */
function plain(text: string): string {
  return text.replaceAll(/[`'"’]/g, '').replaceAll(/(?<=\d)[,_ ](?=\d{3})/g, '');
}
