import { createServer, request as httpRequest } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import * as fc from 'fast-check';
import { headerValue, type ParsedKey, parseIdempotencyKey } from '../../src/http/idempotency-key.js';
import type { AddressInfo } from 'node:net';

const keyOf = (value: string): string | undefined => {
  const parsed = parseIdempotencyKey(value);
  return parsed.kind === 'key' ? parsed.key : undefined;
};
const quoted = (key: string): string => `"${key.replaceAll(/["\\]/g, String.raw`\$&`)}"`;

describe('one value', () => {
  it('is the same key quoted, as the draft demands, and bare, as most clients send it', () => {
    const uuid = '8e03978e-40d5-43dd-bc93-6894a57f9324';

    expect(parseIdempotencyKey(uuid)).toEqual({ kind: 'key', key: uuid, raw: uuid });
    expect(parseIdempotencyKey(`"${uuid}"`)).toEqual({ kind: 'key', key: uuid, raw: `"${uuid}"` });
  });

  it.each([
    ['escapes', String.raw`"a\"b\\c"`, String.raw`a"b\c`],
    ['white space around the quotes', ' \t"abc"\t ', 'abc'],
    ['spaces inside of the quotes', '" a b "', ' a b '],
    ['a parameter without a value', '"abc";fresh', 'abc'],
    [
      'parameters of every kind',
      '"abc"; a=1;b=-1.5;c="x\\"";d=tok/en:1;e=:YWJj:;f=?0;g=@1659578233;h=%"f%c3%bc"',
      'abc',
    ],
    ['the longest numbers', '"abc";i=-999999999999999;d=123456789012.123', 'abc'],
    ['a parameter name with every kind of character', '"abc";*a-1_b.c*', 'abc'],
    ['255 characters after unescaping', `"${String.raw`\"`.repeat(255)}"`, '"'.repeat(255)],
  ])('takes a String with %s', (_, value, key) => {
    expect(keyOf(value)).toBe(key);
  });

  it.each([
    ['spaces inside', 'a b  c'],
    ['a comma, which makes no list of it', 'a, b'],
    ['a semicolon, which begins no parameter', 'abc;v=1'],
    ['a quote that is not the first character', 'a"b"'],
    ['a backslash', String.raw`a\b`],
    ['every printable character', String.fromCharCode(...Array.from({ length: 0x7e - 0x22 }, (_, i) => 0x23 + i))],
    ['255 characters', 'k'.repeat(255)],
    ['one character', '~'],
  ])('takes a bare value with %s as it is', (_, value) => {
    expect(keyOf(value)).toBe(value);
  });

  it.each([
    ['nothing at all', ''],
    ['an empty String', '""'],
    ['a space', ' '],
    ['a bare value with a space before it', ' abc'],
    ['a bare value with a space after it', 'abc '],
    ['a quote that is not closed', '"abc'],
    ['a quote alone', '"'],
    ['text after the String', '"abc"d'],
    ['an unescaped quote', '"a"b"'],
    ['an escape of anything but quote and backslash', String.raw`"a\n"`],
    ['a backslash before the closing quote', String.raw`"abc\"`],
    ['a list of Strings', '"a", "b"'],
    ['a tab inside the quotes', '"a\tb"'],
    ['a control character', 'a\u0007b'],
    ['DEL', 'a\u007fb'],
    ['a line feed at the end', 'abc\n'],
    ['a line feed after the quotes', '"abc"\n'],
    ['a character beyond ASCII', 'schlüssel'],
    ['a quoted character beyond ASCII', '"schlüssel"'],
    ['256 bare characters', 'k'.repeat(256)],
    ['256 quoted characters', `"${'k'.repeat(256)}"`],
    ['a space before the semicolon', '"abc" ;a'],
    ['a tab after the semicolon', '"abc";\ta'],
    ['a semicolon without parameter', '"abc";'],
    ['a parameter name in capitals', '"abc";A=1'],
    ['a parameter name that starts with a digit', '"abc";1=1'],
    ['a parameter with spaces around its equals sign', '"abc";a = 1'],
    ['a parameter without the value it announces', '"abc";a='],
    ['a number with four decimals', '"abc";a=1.2345'],
    ['a number with thirteen digits before the point', '"abc";a=1234567890123.1'],
    ['a number with sixteen digits', '"abc";a=1234567890123456'],
    ['a number that ends with its point', '"abc";a=1.'],
    ['a decimal date', '"abc";a=@1.5'],
    ['a boolean that is neither 0 nor 1', '"abc";a=?2'],
    ['padding inside a byte sequence', '"abc";a=:YQ==YQ:'],
    ['capitals in the escapes of a display string', '"abc";a=%"%C3%BC"'],
  ])('refuses %s', (_, value) => {
    expect(parseIdempotencyKey(value)).toEqual({ kind: 'malformed', reason: expect.any(String) });
  });
});

describe('any value', () => {
  const printable = fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code));
  const legalKey = fc.array(printable, { minLength: 1, maxLength: 255 }).map((characters) => characters.join(''));
  /** Pieces of the grammar in any order: most results are nearly right, which is where parsers go wrong. */
  const fragments = String.raw`" \ \" \\ ; = , a A k1 * 1 12.5 - . @7 ?1 ? : :YQ==: %" %c3 % ü "abc" ;a=1 .123 999999999999999`;
  const fragment = fc.constantFrom(' ', '; ', '\t', '\n', ...fragments.split(' '));
  const nearlyGrammatical = fc.array(fragment, { maxLength: 12 }).map((pieces) => pieces.join(''));
  const anyValue = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 300 }),
    nearlyGrammatical,
    nearlyGrammatical.map((text) => `"abc";a=${text}`),
    nearlyGrammatical.map((text) => `"${text}`),
  );

  it('comes back as the same key from its quoted form', () => {
    fc.assert(fc.property(legalKey, (key) => expect(keyOf(quoted(key))).toBe(key)));
  });

  it('is the same key bare and quoted wherever both forms exist', () => {
    const bareKey = legalKey.filter((key) => !key.startsWith('"') && key.trim() === key);
    fc.assert(fc.property(bareKey, (key) => expect(keyOf(key)).toBe(keyOf(quoted(key)))));
  });

  it('is accepted exactly where the algorithms of RFC 9651, or else the rule for bare values, accept it', () => {
    fc.assert(
      fc.property(anyValue, (value) => {
        expect(keyOf(value)).toBe(keyByTheRfc(value));
      }),
      { numRuns: 5_000 },
    );
  });

  it('is answered without an exception, and without repeating the key in the reason', () => {
    fc.assert(
      fc.property(anyValue, (value) => {
        const parsed = parseIdempotencyKey(value);
        const reason = parsed.kind === 'malformed' ? parsed.reason : '';
        // Shorter values occur in any English sentence.
        expect(value.length > 3 && reason.includes(value)).toBe(false);
      }),
      { numRuns: 5_000 },
    );
  });

  it('is answered even when it is too long for a regular expression', () => {
    for (const unit of ['a', '"', '\\', '\\"', '";a=1', ' ', ';', '%']) {
      expect(parseIdempotencyKey(`"${unit.repeat(20_000_000 / unit.length)}`).kind).toBe('malformed');
    }
  });

  it('is answered like by the RFC 100,000 times in a row, in no time', () => {
    const alphabet = ['"', '"', '\\', ';', '=', ' ', 'a', 'b', '1', '.', ':', '?', '@', '%', 'é', '\t'];
    let state = 20_260_101;
    const random = (below: number): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return (state >>> 8) % below;
    };
    const values = Array.from({ length: 100_000 }, () => {
      const text = Array.from({ length: random(14) }, () => alphabet[random(alphabet.length)]!).join('');
      return random(2) === 0 ? text : `"k"${text}`;
    });

    const before = process.cpuUsage();
    const keys = values.map(keyOf);
    const processorMs = process.cpuUsage(before).user / 1_000;

    expect(keys).toEqual(values.map(keyByTheRfc));
    expect(keys.some((key) => key !== undefined)).toBe(true);
    expect(processorMs).toBeLessThan(2_000);
  });
});

describe('a request over HTTP', () => {
  const answers: ParsedKey[] = [];
  const server = createServer((request, response) => {
    answers.push(parseIdempotencyKey(headerValue(request, 'Idempotency-Key')));
    response.end();
  });
  beforeAll(() => new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve)));
  afterAll(() => new Promise((resolve) => server.close(resolve)));

  async function parse(headers: Record<string, string | string[]>): Promise<ParsedKey> {
    const { port } = server.address() as AddressInfo;
    await new Promise<void>((resolve, reject) => {
      const request = httpRequest({ host: '127.0.0.1', port, headers, agent: false }, (response) => {
        response.resume().on('end', resolve);
      });
      request.on('error', reject).end();
    });
    return answers.pop()!;
  }

  it('has no key without the header', async () => {
    expect(await parse({ 'X-Request-ID': 'abc' })).toEqual({ kind: 'missing' });
  });

  it('has its key under the header in whatever case', async () => {
    expect(await parse({ 'iDeMpOtEnCy-kEy': '"abc"' })).toEqual({ kind: 'key', key: 'abc', raw: '"abc"' });
  });

  it('is malformed with an empty header', async () => {
    expect(await parse({ 'Idempotency-Key': '' })).toMatchObject({ kind: 'malformed' });
  });

  it('is malformed with several header lines, which Node joins into something that looks like one key', async () => {
    const severalLines = { kind: 'malformed', reason: expect.stringContaining('several header lines') };

    expect(await parse({ 'Idempotency-Key': ['abc', 'def'] })).toEqual(severalLines);
    expect(await parse({ 'Idempotency-Key': ['abc', 'abc'] })).toEqual(severalLines);
    expect(await parse({ 'Idempotency-Key': ['"abc"', ''] })).toEqual(severalLines);
  });

  it('is malformed with a list of Strings in one line', async () => {
    expect(await parse({ 'Idempotency-Key': '"abc", "def"' })).toMatchObject({ kind: 'malformed' });
  });

  it('has the key that an earlier middleware put there', () => {
    const parsed = parseIdempotencyKey(
      headerValue({ headers: { 'x-request-id': 'abc' }, rawHeaders: [] }, 'X-Request-ID'),
    );

    expect(parsed).toEqual({ kind: 'key', key: 'abc', raw: 'abc' });
  });

  it('is not confused by a header whose value is the name of the key header', () => {
    const rawHeaders = ['X-Echo', 'Idempotency-Key', 'Idempotency-Key', 'abc'];

    const value = headerValue({ headers: { 'idempotency-key': 'abc' }, rawHeaders }, 'Idempotency-Key');

    expect(parseIdempotencyKey(value)).toEqual({ kind: 'key', key: 'abc', raw: 'abc' });
  });
});

/** The rules once more, written down from the RFC's algorithms (section 4.2) instead of its grammar. */
function keyByTheRfc(value: string): string | undefined {
  const input = value.replaceAll(/^[ \t]+|[ \t]+$/g, '');
  if (!input.startsWith('"')) {
    const isBare = [...value].every((character) => character >= ' ' && character <= '~') && value.trim() === value;
    return isBare && value.length >= 1 && value.length <= 255 ? value : undefined;
  }
  const item = new ItemParser(input).parse();
  return item !== undefined && item.length >= 1 && item.length <= 255 ? item : undefined;
}

class ItemParser {
  private position = 0;
  private failed = false;

  constructor(private readonly input: string) {}

  /** The content of the String, or nothing where the RFC says "fail parsing". */
  parse(): string | undefined {
    const content = this.string();
    while (!this.failed && this.peek() === ';') {
      this.position++;
      while (this.peek() === ' ') this.position++;
      this.require(/[a-z*]/);
      this.skip(/[a-z0-9_\-.*]/);
      if (this.peek() === '=') {
        this.position++;
        this.bareItem();
      }
    }
    return this.failed || this.position < this.input.length ? undefined : content;
  }

  private bareItem(): void {
    const first = this.peek();
    if (/[-0-9]/.test(first)) this.number();
    else if (first === '"') this.string();
    else if (/[A-Za-z*]/.test(first)) this.skip(/[A-Za-z0-9!#$%&'*+\-.^_`|~:/]/);
    else if (first === ':') this.byteSequence();
    else if (first === '?') this.require(/\?/, /[01]/);
    else if (first === '@') this.date();
    else if (first === '%') this.displayString();
    else this.failed = true;
  }

  private number(): 'integer' | 'decimal' {
    if (this.peek() === '-') this.position++;
    const whole = this.skip(/[0-9]/);
    if (this.peek() !== '.') {
      this.failed ||= whole.length === 0 || whole.length > 15;
      return 'integer';
    }
    this.position++;
    const fraction = this.skip(/[0-9]/);
    this.failed ||= whole.length === 0 || whole.length > 12 || fraction.length === 0 || fraction.length > 3;
    return 'decimal';
  }

  private date(): void {
    this.position++;
    const kind = this.number(); // first: it may fail by itself
    this.failed ||= kind === 'decimal';
  }

  private string(): string {
    this.require(/"/);
    let content = '';
    while (!this.failed && this.peek() !== '"') {
      if (this.peek() === '\\') {
        this.position++;
        content += this.require(/["\\]/);
      } else {
        content += this.require(/[ -~]/);
      }
    }
    this.position++;
    return content;
  }

  private byteSequence(): void {
    this.position++;
    this.skip(/[A-Za-z0-9+/]/);
    this.skip(/=/);
    this.require(/:/);
  }

  private displayString(): void {
    this.require(/%/, /"/);
    while (!this.failed && this.peek() !== '"') {
      if (this.peek() === '%') this.require(/%/, /[0-9a-f]/, /[0-9a-f]/);
      else this.require(/[ -~]/);
    }
    this.position++;
  }

  private peek(): string {
    return this.input.charAt(this.position);
  }

  private skip(accepted: RegExp): string {
    const start = this.position;
    while (accepted.test(this.peek())) this.position++;
    return this.input.slice(start, this.position);
  }

  private require(...accepted: RegExp[]): string {
    const start = this.position;
    for (const character of accepted) this.failed ||= !character.test(this.input.charAt(this.position++));
    return this.input.slice(start, this.position);
  }
}
