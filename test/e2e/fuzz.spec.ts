// oxlint-disable jest/no-conditional-expect, jest/expect-expect -- what a property claims depends on the case that was generated
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { connect, type Socket } from 'node:net';
import { isDeepStrictEqual, types } from 'node:util';
import { brotliCompressSync, brotliDecompressSync, deflateSync, gunzipSync, gzipSync, inflateSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  Controller,
  type INestApplication,
  type LoggerService,
  Post,
  Req,
  Res,
  type Type,
  UseInterceptors,
} from '@nestjs/common';
import { AnyFilesInterceptor } from '@nestjs/platform-express';
import * as fc from 'fast-check';
import { Idempotent, IdempotencyContext, type IdempotencyModuleOptions } from '../../src/index.js';
import { type ParsedKey, parseIdempotencyKey, readIdempotencyKey } from '../../src/http/idempotency-key.js';
import { type RawResponse, withoutVolatile } from '../support/raw-http.js';
import { type Adapter, ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

/**
 * What no client and no application should send or return, and some do. FUZZ_SEED repeats a run (the seed is in the
 * message of a failure), FUZZ_SCALE multiplies what goes to the live server: 5 and more makes it 100,000 header values.
 */
const SEED = Number(process.env['FUZZ_SEED'] ?? 20261121);
const SCALE = Number(process.env['FUZZ_SCALE'] ?? 1);

const PARSED_VALUES = 100_000;
const SENT_VALUES = Math.ceil((20_000 * SCALE) / ADAPTERS.length);
const BODIES = 100 * SCALE;
const RESOLVER_SEQUENCES = 100 * SCALE;
const RESPONSES = 200 * SCALE;

const SLOW_TEST_MS = 120_000 * Math.max(1, SCALE);

const parameters = (numRuns: number): fc.Parameters<unknown> => ({
  numRuns,
  seed: SEED,
  interruptAfterTimeLimit: SLOW_TEST_MS - 10_000,
  markInterruptAsFailure: true,
});

/** A test application that keeps every line of its log, of every level, from the moment it listens. */
async function startTest(
  adapter: Adapter,
  controllers: Type[],
  idempotency?: IdempotencyModuleOptions,
): Promise<TestApp & { lines: string[] }> {
  const lines: string[] = [];
  const collect = (...parts: unknown[]): void => {
    lines.push(parts.map((part) => (part instanceof Error ? part.stack : String(part))).join(' '));
  };
  const logger: LoggerService = {
    log: collect,
    warn: collect,
    error: collect,
    fatal: collect,
    debug: collect,
    verbose: collect,
  };
  const test = await createTestApp({
    adapter,
    controllers,
    idempotency: { purge: false, ...idempotency },
    configure: (app: INestApplication) => app.useLogger(logger),
  });
  lines.length = 0;
  return Object.assign(test, { lines });
}

function headerOf({ headerLines }: RawResponse, name: string): string | undefined {
  return headerLines.find((line) => line.toLowerCase().startsWith(`${name.toLowerCase()}:`))?.slice(name.length + 2);
}

// ---- the key's header

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
function headerValues(count: number, seed: number): string[] {
  const random = randomFrom(seed);
  const values = fc.sample(headerValue, { numRuns: Math.ceil(count / 5), seed });
  while (values.length < count) {
    const pick = (): string => values[Math.floor(random() * values.length)]!;
    values.push(mutate(pick(), pick(), random).slice(0, 20_000));
  }
  return values;
}

const REASONS = [
  'it is empty',
  'it is longer than 255 characters',
  'it must consist of printable ASCII characters, without spaces at its ends',
  'it starts with a quote, but is not a String as RFC 9651 defines it',
];

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

const executions = new Map<string, number>();

@Controller()
class KeysController {
  @Post('keys')
  @Idempotent()
  answer(@IdempotencyContext() { key }: IdempotencyContext): { hex: string } {
    executions.set(key, (executions.get(key) ?? 0) + 1);
    return { hex: Buffer.from(key).toString('hex') }; // in hexadecimal: only the echoed header may show it
  }
}

/** A request's header lines as bytes on the wire, and what they say. */
interface HeaderCase {
  lines: string[];
  name: string;
  expected: ParsedKey;
  /** Node itself refuses it, and closes the connection: nothing can follow on it. */
  refusedByNode: boolean;
}

/** What Node takes for a header's value, and how much of all headers together. */
const ILLEGAL_BYTE = /[\0-\x08\x0a-\x1f\x7f]/; // oxlint-disable-line no-control-regex -- it is about these
const MAX_HEAD_BYTES = 16_000;

function headerCase(values: string[], index: number): HeaderCase {
  const lines = values.map((value) => Buffer.from(value.replaceAll(/[\r\n]/g, '')).toString('latin1'));
  const arriving = lines.map((line) => line.replaceAll(/^[ \t]+|[ \t]+$/g, ''));
  const name = ['Idempotency-Key', 'idempotency-key', 'IDEMPOTENCY-KEY'][index % 3]!;
  return {
    lines,
    name,
    expected: readIdempotencyKey(
      {
        headers: arriving.length === 0 ? {} : { 'idempotency-key': arriving.join(', ') },
        rawHeaders: arriving.flatMap((value) => [name, value]),
      },
      'Idempotency-Key',
    ),
    refusedByNode: lines.some((line) => ILLEGAL_BYTE.test(line)) || lines.join('').length > MAX_HEAD_BYTES,
  };
}

function headerRequest({ lines, name }: HeaderCase): Buffer {
  const head = ['POST /keys HTTP/1.1', 'Host: localhost', 'Content-Length: 2', 'Content-Type: application/json'];
  return Buffer.from(`${[...head, ...lines.map((line) => `${name}: ${line}`)].join('\r\n')}\r\n\r\n{}`, 'latin1');
}

interface Reply {
  status: number;
  head: string;
  body: string;
}

/** Sends requests one behind the other on one connection, without waiting for answers. */
class Pipeline {
  private received = '';
  private failed: Error | undefined;
  private wake: () => void = () => undefined;

  private constructor(private readonly socket: Socket) {
    socket.setEncoding('latin1');
    socket.setTimeout(10_000, () => socket.destroy(new Error('No answer within 10 s')));
    socket.on('data', (chunk: string) => {
      this.received += chunk;
      this.wake();
    });
    socket.on('error', (error) => (this.failed = error));
    socket.on('close', () => {
      this.failed ??= new Error('The server closed the connection');
      this.wake();
    });
  }

  static async open(port: number): Promise<Pipeline> {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    await once(socket, 'connect');
    return new Pipeline(socket);
  }

  async exchange(requests: Buffer[]): Promise<Reply[]> {
    this.socket.write(Buffer.concat(requests));
    const replies: Reply[] = [];
    while (replies.length < requests.length) {
      const reply = this.next();
      if (reply) replies.push(reply);
      else if (this.failed)
        throw new Error(`After ${replies.length} of ${requests.length} answers`, { cause: this.failed });
      else await new Promise<void>((wake) => (this.wake = wake));
    }
    return replies;
  }

  /** All of an answer that ends with the connection. */
  async rest(request: Buffer): Promise<string> {
    this.socket.write(request);
    while (!this.failed) await new Promise<void>((wake) => (this.wake = wake));
    return this.received;
  }

  close(): void {
    this.socket.destroy();
  }

  private next(): Reply | undefined {
    const end = this.received.indexOf('\r\n\r\n');
    if (end < 0) return undefined;
    const head = this.received.slice(0, end);
    const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1]);
    if (Number.isNaN(length)) throw new Error(`An answer without a length: ${head}`);
    if (this.received.length < end + 4 + length) return undefined;
    const body = this.received.slice(end + 4, end + 4 + length);
    this.received = this.received.slice(end + 4 + length);
    return { status: Number(head.slice(9, 12)), head, body };
  }
}

const CONNECTIONS = 4;
const REQUESTS_AT_ONCE = 24;

describe.each(ADAPTERS)('the header, at a live server on %s', (adapter) => {
  let test: Awaited<ReturnType<typeof startTest>>;

  beforeAll(async () => {
    executions.clear();
    test = await startTest(adapter, [KeysController], { inFlight: { waitMs: 10_000 } });
  });

  afterAll(async () => {
    await test.close();
  });

  it(
    `of ${SENT_VALUES} requests gives success to each that the parser finds a key in, and 400 to all others`,
    async () => {
      const values = headerValues(SENT_VALUES, SEED + ADAPTERS.indexOf(adapter) + 1);
      const cases = values.map((value, index) =>
        headerCase(index % 50 === 0 ? [] : index % 20 === 0 ? [value, values[index - 1]!] : [value], index),
      );
      const sendable = cases.filter(({ refusedByNode }) => !refusedByNode);
      const refused = cases.filter(({ refusedByNode }) => refusedByNode).slice(0, 500);
      const wrong: unknown[] = [];

      const queue = [...sendable];
      const worker = async (): Promise<void> => {
        const pipeline = await Pipeline.open(test.port);
        for (
          let batch = queue.splice(0, REQUESTS_AT_ONCE);
          batch.length > 0;
          batch = queue.splice(0, REQUESTS_AT_ONCE)
        ) {
          const replies = await pipeline.exchange(batch.map(headerRequest));
          wrong.push(
            ...replies.flatMap((reply, index) => (isRight(reply, batch[index]!) ? [] : { reply, of: batch[index] })),
          );
        }
        pipeline.close();
      };
      await Promise.all(Array.from({ length: CONNECTIONS }, worker));

      for (const header of refused) {
        const pipeline = await Pipeline.open(test.port);
        const answer = await pipeline.rest(headerRequest(header));
        if (!/^HTTP\/1\.1 4(?:00|31) /.test(answer)) wrong.push({ answer, header });
      }

      expect({ seed: SEED, wrong: wrong.slice(0, 3) }).toEqual({ seed: SEED, wrong: [] });
      const keys = new Set(sendable.flatMap(({ expected }) => (expected.kind === 'key' ? expected.key : [])));
      expect(keys.size).toBeGreaterThan(SENT_VALUES / 20);
      expect(executions).toEqual(new Map([...keys].map((key) => [key, 1])));
      const [{ count }] = await test.dataSource.query<[{ count: number }]>(
        'select count(*)::int4 as count from idempotency_keys',
      );
      expect(count).toBe(keys.size);
      expect(test.lines).toEqual([]); // and so the key is in none of them
    },
    SLOW_TEST_MS,
  );
});

/** Nothing of a refused key is in the answer: it is, to the letter, what the reason alone makes of it. */
function isRight({ status, head, body }: Reply, { expected }: HeaderCase): boolean {
  const echo = /^idempotency-key: (.*)$/im.exec(head)?.[1];
  switch (expected.kind) {
    case 'key':
      return (
        status === 201 && echo === expected.raw && body === `{"hex":"${Buffer.from(expected.key).toString('hex')}"}`
      );
    case 'missing':
      return status === 400 && echo === undefined && body.includes('"type":"urn:nestjs-idempotency:key-missing"');
    case 'malformed': {
      const problem = {
        type: 'urn:nestjs-idempotency:key-malformed',
        title: 'Idempotency-Key is malformed',
        status: 400,
        detail: `The idempotency key cannot be used: ${expected.reason}.`,
      };
      return status === 400 && echo === undefined && body === JSON.stringify(problem);
    }
  }
}

// ---- bodies

interface BodyCase {
  path: 'bodies' | 'uploads';
  headers: [string, string][];
  chunked: boolean;
  bytes: Buffer;
}

/** Express' request or Fastify's, with what the parsers left on it. */
interface ParsedRequest {
  body?: unknown;
  files?: unknown;
}

/** What the handler was given, by its own account: where two differ, one must never get the other's answer. */
async function viewOf({ body, files }: ParsedRequest): Promise<unknown> {
  if (Array.isArray(files)) {
    const stored = files as { fieldname: string; originalname: string; mimetype: string; buffer: Buffer }[];
    return [
      body,
      stored.map(({ fieldname, originalname, mimetype, buffer }) => [fieldname, originalname, mimetype, buffer]),
    ];
  }
  if (!isMultipart(body)) return body;
  return Promise.all(
    Object.entries(body).flatMap(([name, parts]) =>
      [parts].flat().map(async (part) => {
        if (part.type !== 'file') return [name, part.value];
        const content = await part.toBuffer!();
        // The empty file input of a form: multer leaves it out, and the fingerprint with it.
        return part.filename || content.length > 0 ? [name, part.filename, part.mimetype, content] : [];
      }),
    ),
  ).then((parts) => parts.filter((part) => part.length > 0));
}

interface Part {
  type: string;
  value?: unknown;
  filename?: string;
  mimetype?: string;
  toBuffer?: () => Promise<Buffer>;
}

/** What @fastify/multipart attaches. */
function isMultipart(body: unknown): body is Record<string, Part | Part[]> {
  const parts = Object.values(Object(body) as Record<string, unknown>).flat();
  return parts.length > 0 && parts.every((part) => typeof part === 'object' && part !== null && 'fieldname' in part);
}

const views: unknown[] = [];

function bodiesController(prefix: string, adapter: Adapter, idempotent: typeof Idempotent): Type {
  const readUpload: () => MethodDecorator =
    adapter === 'express' ? () => UseInterceptors(AnyFilesInterceptor()) : () => () => undefined;

  @Controller(prefix)
  class BodiesController {
    @Post('bodies')
    @idempotent()
    bodies(@Req() request: ParsedRequest): Promise<object> {
      return this.look(request);
    }

    @Post('uploads')
    @idempotent()
    @readUpload()
    uploads(@Req() request: ParsedRequest): Promise<object> {
      return this.look(request);
    }

    private async look(request: ParsedRequest): Promise<object> {
      views.push(await viewOf(request));
      return { run: randomUUID() };
    }
  }
  return BodiesController;
}

const plainly: typeof Idempotent = () => () => undefined;

const oddJson = fc.oneof(
  fc.json({ maxDepth: 3 }),
  fc.constantFrom(
    '',
    ' ',
    'null',
    '"a"',
    '-0',
    '[1e999,-1e999,1e-999]',
    '{"n":123456789012345678901234567890.5}',
    '{"a":1,"a":2}',
    '{"a":{"a":1,"a":[]},"b":1,"a":0}',
    String.raw`{"s":"\ud800"}`,
    String.raw`{"s":"\udc00\ud800"}`,
    String.raw`{"\ud800":"\u0000","\u0000":null}`,
    '{"__proto__":{"admin":true}}',
    '{"constructor":{"prototype":{"a":1}}}',
    '{"toJSON":1,"length":-1,"then":null,"pipe":{},"fields":{}}',
    '{"a":"\0"}',
    '\uFEFF{"a":1}',
    '{"a":1}{"a":2}',
    `{"é":"${'é'.repeat(300)}"}`,
  ),
  fc.integer({ min: 1, max: 30_000 }).map((depth) => '['.repeat(depth) + ']'.repeat(depth)),
  fc.integer({ min: 1, max: 5_000 }).map((depth) => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`),
);
const oddForm = fc
  .array(
    fc.constantFrom(
      'a=1',
      'a=2',
      'a[]=1',
      'a[b]=1',
      'a[b][c]=',
      'a%5Bb%5D=1',
      '__proto__[x]=1',
      '%ff=%',
      '%00=%00',
      '=',
      '',
      ';',
      'a',
      '%F0%9F%98%80=+',
      'toString=1',
      `a${'[b]'.repeat(40)}=1`,
    ),
    { maxLength: 8 },
  )
  .map((pairs) => pairs.join('&'));
const jsonType = fc.constantFrom(
  'application/json',
  'application/json; charset=utf-8',
  'application/json;charset="UTF-8"',
  'application/json; charset=utf-16le',
  'application/json; charset=latin1',
  'application/json; charset=no-such',
  'APPLICATION/JSON ;x=y',
  'application/vnd.api+json',
);
const formType = fc.constantFrom(
  'application/x-www-form-urlencoded',
  'application/x-www-form-urlencoded; charset=iso-8859-1',
);
const wrongType = fc.constantFrom(
  'text/plain',
  'application/octet-stream',
  'application/xml',
  'x',
  '/',
  ';',
  'application/json, text/plain',
  'multipart/form-data',
  'multipart/form-data; boundary=',
  'multipart/mixed; boundary=b',
);

const disposition = fc.constantFrom(
  'form-data; name="a"',
  'form-data; name="b"; filename="f.bin"',
  'form-data; name="b"; filename=""',
  'form-data; name="b"; filename="../../etc/passwd"',
  `form-data; name="b"; filename*=UTF-8''%e2%82%ac`,
  'form-data; name="__proto__"',
  'form-data; name="a[b]"',
  'form-data; name="a"; name="c"',
  'form-data; name="toString"; filename="é世.txt"',
  'form-data',
  'attachment; name="a"',
  '',
);
const partType = fc.constantFrom(
  '',
  'Content-Type: text/plain\r\n',
  'Content-Type: application/json\r\n',
  'Content-Type: multipart/mixed; boundary=b\r\n',
  'Content-Type: x\r\n',
  'Content-Transfer-Encoding: base64\r\n',
);
const partContent = fc.oneof(
  fc.constantFrom('', '1', '{"a":1}', '\r\n', '--b', '\r\n--b', '\r\n--bb\r\n', '--b--', '\0\xff'),
  fc.string({ unit: 'binary-ascii', maxLength: 30 }),
  // Not more: a part without a name that does not fit into one buffer is one that @fastify/multipart waits for, for ever.
  fc.integer({ min: 1_000, max: 10_000 }).map((length) => 'x'.repeat(length)),
);
const multipartBody = fc
  .record({
    parts: fc.array(fc.tuple(disposition, partType, partContent), { maxLength: 4 }),
    end: fc.constantFrom('--b--\r\n', '--b--', '--b--\r\nepilogue', '--b', ''),
    preamble: fc.constantFrom('', '', 'preamble\r\n', '\r\n'),
    breaks: fc.constantFrom('\r\n', '\r\n', '\r\n', '\n'),
  })
  .map(({ parts, end, preamble, breaks }) => {
    const text = parts.map(([of, type, content]) => `--b\r\nContent-Disposition: ${of}\r\n${type}\r\n${content}\r\n`);
    return (preamble + text.join('') + end).replaceAll('\r\n', breaks);
  });
const multipartType = fc.constantFrom(
  'multipart/form-data; boundary=b',
  'multipart/form-data; boundary="b"',
  'multipart/form-data; charset=utf-8; boundary=b',
  'Multipart/Form-Data; boundary=b; boundary=c',
  'multipart/form-data; boundary=bb',
);

const typeAndText = fc.oneof(
  { arbitrary: fc.tuple(jsonType, oddJson), weight: 6 },
  { arbitrary: fc.tuple(formType, oddForm), weight: 3 },
  { arbitrary: fc.tuple(multipartType, multipartBody), weight: 6 },
  { arbitrary: fc.tuple(wrongType, fc.oneof(oddJson, oddForm, multipartBody)), weight: 2 },
);

/** A change to the bytes: most of them make another request, some only another spelling. */
const change = fc.oneof(
  fc.constant((bytes: Buffer) => bytes),
  fc.tuple(fc.nat(), fc.nat(255)).map(([at, by]) => (bytes: Buffer) => {
    const copy = Buffer.from(bytes);
    if (copy.length > 0) copy[at % copy.length] = by;
    return copy;
  }),
  fc.tuple(fc.nat(), fc.nat()).map(([at, length]) => (bytes: Buffer) => {
    const start = at % (bytes.length + 1);
    return Buffer.concat([bytes.subarray(0, start), bytes.subarray(start + (length % 8))]);
  }),
  fc
    .constantFrom(' ', '1', ',', '&a=1', '\0', '}')
    .map((text) => (bytes: Buffer) => Buffer.concat([bytes, Buffer.from(text)])),
);

const codings: Record<string, (bytes: Buffer) => Buffer> = {
  gzip: (bytes) => gzipSync(bytes),
  deflate: (bytes) => deflateSync(bytes),
  br: (bytes) => brotliCompressSync(bytes),
  'x-unknown': (bytes) => bytes,
};
const coding = fc.oneof(
  { arbitrary: fc.constant(undefined), weight: 6 },
  { arbitrary: fc.tuple(fc.constantFrom(...Object.keys(codings)), fc.boolean()), weight: 1 },
);

const bodyCase = fc
  .record({
    typeAndText,
    coding,
    chunked: fc.boolean(),
    withoutType: fc.integer({ min: 0, max: 9 }),
    upload: fc.boolean(),
  })
  .map(({ typeAndText: [type, text], coding: encoded, chunked, withoutType, upload }): BodyCase => {
    const bytes = Buffer.from(text);
    const [name, isBroken] = encoded ?? [];
    return {
      path: type.toLowerCase().startsWith('multipart') || upload ? 'uploads' : 'bodies',
      headers: [
        ...(withoutType === 0 ? [] : [['Content-Type', type] as [string, string]]),
        ...(name === undefined ? [] : [['Content-Encoding', name] as [string, string]]),
      ],
      chunked,
      bytes: name === undefined || isBroken ? bytes : codings[name]!(bytes),
    };
  });

function sendBody(
  test: TestApp,
  prefix: string,
  key: string,
  { path, headers, chunked, bytes }: BodyCase,
): Promise<RawResponse> {
  const chunks = [bytes.subarray(0, bytes.length / 3), bytes.subarray(bytes.length / 3)].filter(
    ({ length }) => length > 0,
  );
  return test.request({
    method: 'POST',
    path: `${prefix}/${path}`,
    headers: [
      ...headers,
      ['Idempotency-Key', key],
      chunked ? ['Transfer-Encoding', 'chunked'] : ['Content-Length', String(bytes.length)],
    ],
    body: chunked
      ? Buffer.concat([
          ...chunks.flatMap((chunk) => [
            Buffer.from(`${chunk.length.toString(16)};x=y\r\n`),
            chunk,
            Buffer.from('\r\n'),
          ]),
          Buffer.from('0\r\nX-Trailer: late\r\n\r\n'),
        ])
      : bytes,
  });
}

describe.each(ADAPTERS)('a body, at a live server on %s', (adapter) => {
  let test: Awaited<ReturnType<typeof startTest>>;

  beforeAll(async () => {
    test = await startTest(adapter, [
      bodiesController('', adapter, Idempotent),
      bodiesController('plain', adapter, plainly),
    ]);
  });

  afterAll(async () => {
    await test.close();
  });

  it(
    'gets what it gets without the library, the same on each retry, and never the answer to another body',
    async () => {
      await fc.assert(
        fc.asyncProperty(bodyCase, change, (sent, altered) =>
          checkBody(test, sent, { ...sent, bytes: altered(sent.bytes) }),
        ),
        parameters(BODIES),
      );
    },
    SLOW_TEST_MS,
  );
});

async function checkBody(test: TestApp & { lines: string[] }, sent: BodyCase, other: BodyCase): Promise<void> {
  const key = `fuzzed-${randomUUID()}`;
  test.lines.length = 0;
  const plain = await look(() => sendBody(test, '/plain', key, sent));
  const first = await look(() => sendBody(test, '', key, sent));
  // An empty list or object may have been read as well as not: then the library must have found it read.
  if (isUnread(plain, sent) && first.response.status !== plain.response.status) {
    const isUpload = sent.headers.some(([, value]) => value.toLowerCase().startsWith('multipart/'));
    expect(isUpload ? [415, 500] : [415]).toContain(first.response.status);
    expect(test.lines.join('\n')).not.toContain(key);
    return;
  }
  // Some 500s are the framework's own, such as @fastify/multipart's without a boundary: the library adds none.
  expect(first.response.status).toBe(plain.response.status);

  const retry = await look(() => sendBody(test, '', key, sent));
  expect(retry.response.status).toBe(first.response.status);
  expect(retry.response.body.equals(first.response.body)).toBe(true);
  expect(headerOf(retry.response, 'Idempotency-Replayed')).toBe(first.response.status < 300 ? 'true' : undefined);
  expect(retry.view).toBe(NOT_RUN);

  if (first.response.status < 300) {
    const unprotected = await look(() => sendBody(test, '/plain', key, other));
    const changed = await look(() => sendBody(test, '', key, other));
    if (isUnread(unprotected, other)) return;
    if (unprotected.response.status >= 300) expect(changed.response.status).toBe(unprotected.response.status);
    else if (!isSameView(unprotected.view, first.view)) expect(changed.response.status).toBe(422);
    else expect([201, 422]).toContain(changed.response.status);
    expect(changed.view).toBe(NOT_RUN);
  }
  expect(test.lines.join('\n')).not.toContain(key);
}

const NOT_RUN = Symbol('the handler did not run');

interface Looked {
  response: RawResponse;
  view: unknown;
}

async function look(send: () => Promise<RawResponse>): Promise<Looked> {
  views.length = 0;
  const response = await send();
  return { response, view: views.length === 0 ? NOT_RUN : views[0] };
}

/** No parser is there for it, so the handler gets nothing: an application with such clients has to register one. */
function isUnread({ response, view }: Looked, { bytes }: BodyCase): boolean {
  return (
    response.status === 201 && bytes.length > 0 && (Array.isArray(view) ? view[0] === undefined : view === undefined)
  );
}

/** Member order does not count, and neither does the sign of zero. */
function isSameView(one: unknown, other: unknown): boolean {
  try {
    return isDeepStrictEqual(one, other) || JSON.stringify(one) === JSON.stringify(other);
  } catch {
    return true; // too deep to be compared: nothing is claimed then
  }
}

// ---- what resolvers return

interface Resolved {
  key: unknown;
  scope: unknown;
  fingerprint: unknown;
}

let resolved: Resolved;

/** What a resolver that throws is made to return here. */
class Throws extends Error {}

function resolvedOf(name: keyof Resolved): never {
  const value = resolved[name];
  if (value instanceof Throws) throw value;
  return value as never;
}

@Controller()
class ResolversController {
  @Post('resolved')
  @Idempotent({
    key: () => resolvedOf('key'),
    scope: () => resolvedOf('scope'),
    fingerprint: async () => resolvedOf('fingerprint'),
  })
  answer(): { run: string } {
    return { run: randomUUID() };
  }
}

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
const anyKey = fc.oneof({ arbitrary: fc.constantFrom('k', '"k"', '', 'k\0', 'ü'), weight: 4 }, anything, throwing);
const anyScope = fc.oneof(
  { arbitrary: fc.constantFrom('', 's', '"s"', 'ü', '世', 's\0', 's'.repeat(256)), weight: 4 },
  fc.string({ unit: 'binary', maxLength: 3 }),
  anything,
  throwing,
);
const anyFingerprint = fc.oneof({ arbitrary: anything, weight: 6 }, throwing, fc.constant(undefined));

/** The errors of the application in what its resolvers return, as it is told about them: about one of several. */
function applicationErrors({ scope, fingerprint }: Resolved): string[] {
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
function asJson(value: unknown, isRoot = true): unknown {
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
    resolved = {
      key: keys[one % keys.length],
      scope: scopes[two % scopes.length],
      fingerprint: fingerprints[three % fingerprints.length],
    };
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
  return typeof key === 'string' ? parseIdempotencyKey(key).kind : 'malformed';
}

function keyOf(key: unknown): string {
  const parsed = parseIdempotencyKey(String(key));
  return parsed.kind === 'key' ? parsed.key : '';
}

// ---- what handlers answer

interface Answer {
  status: number;
  headers: [name: string, value: string | string[]][];
  body: Buffer;
  way: 'framework' | 'raw' | 'raw in pieces' | 'raw, pairs' | 'raw, flat';
}

let answer: Answer;

/** Express' response, or Fastify's reply. */
interface AnyResponse {
  status(code: number): AnyResponse;
  header(name: string, value: string | string[]): AnyResponse;
  send(body: Buffer): unknown;
  raw?: ServerResponse;
}

function answersController(prefix: string, idempotent: typeof Idempotent): Type {
  @Controller(prefix)
  class AnswersController {
    @Post('answers')
    @idempotent()
    answer(@Res() response: AnyResponse): void {
      const { status, body, way } = answer;
      // Of a name that writeHead() gets twice, Node keeps one line or both, depending on what was set before.
      const headers = way === 'framework' || way === 'raw' ? answer.headers : withoutRepeatedNames(answer.headers);
      const raw = response.raw ?? (response as unknown as ServerResponse);
      switch (way) {
        case 'framework':
          response.status(status);
          headers.forEach(([name, value]) => response.header(name, value));
          response.send(body);
          return;
        case 'raw':
          headers.forEach(([name, value]) => raw.setHeader(name, value));
          raw.statusCode = status;
          raw.end(body);
          return;
        case 'raw in pieces':
          raw.writeHead(status, Object.fromEntries(headers));
          raw.write(body.subarray(0, body.length / 2));
          raw.end(body.subarray(body.length / 2));
          return;
        case 'raw, pairs':
          // Node takes pairs only where no header is set yet, as Express does.
          raw.writeHead(status, (raw.getHeaderNames().length === 0 ? headers : headers.flat(1)) as never);
          raw.end(body);
          return;
        case 'raw, flat':
          raw.writeHead(status, headers.flat(1) as string[]);
          raw.end(body);
      }
    }
  }
  return AnswersController;
}

function withoutRepeatedNames(headers: Answer['headers']): Answer['headers'] {
  return [...new Map(headers.map((header) => [header[0].toLowerCase(), header])).values()];
}

const token = fc.constantFrom(...'abcXYZ019!#$%&*+-.^_`|~');
const headerName = fc.oneof(
  fc.constantFrom(
    'ETag',
    'etag',
    'Location',
    'Vary',
    'X-Powered-By',
    'x-POWERED-by',
    'Link',
    'Retry-After',
    'Cache-Control',
  ),
  fc.constantFrom('__proto__', 'constructor', 'toString', 'x', 'X-a', 'x-A'),
  fc.array(token, { minLength: 1, maxLength: 8 }).map((parts) => `X-${parts.join('')}`),
);
const latin1 = fc.oneof(
  fc.integer({ min: 0x20, max: 0x7e }),
  fc.integer({ min: 0x80, max: 0xff }),
  fc.constantFrom(9, 0x22, 0x2c),
);
const headerText = fc.array(latin1, { maxLength: 12 }).map((codes) => String.fromCharCode(...codes));
const answers = fc.record<Answer>({
  status: fc.oneof(fc.integer({ min: 200, max: 499 }), fc.constantFrom(200, 201, 204, 205, 206, 301, 304, 404, 409)),
  headers: fc
    .array(fc.tuple(headerName, fc.oneof(headerText, fc.array(headerText, { minLength: 1, maxLength: 3 }))), {
      maxLength: 5,
    })
    .chain((headers) =>
      fc
        .boolean()
        .map((typed) => [
          ...headers,
          ...(typed ? [['Content-Type', 'text/x; charset=utf-8'] as [string, string]] : []),
        ]),
    ),
  body: fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  way: fc.constantFrom('framework', 'raw', 'raw in pieces', 'raw, pairs', 'raw, flat'),
});

describe.each(ADAPTERS)('a handler that answers whatever HTTP allows, on %s', (adapter) => {
  let test: Awaited<ReturnType<typeof startTest>>;

  beforeAll(async () => {
    test = await startTest(adapter, [answersController('', Idempotent), answersController('plain', plainly)]);
  });

  afterAll(async () => {
    await test.close();
  });

  const ask = (key: string, prefix = '', headers: [string, string][] = []): Promise<RawResponse> =>
    test.request({ method: 'POST', path: `${prefix}/answers`, headers: [['Idempotency-Key', key], ...headers] });

  it(
    'is answered for as it would be without the library, and again byte for byte',
    async () => {
      await fc.assert(
        fc.asyncProperty(answers, async (given) => {
          answer = given;
          test.lines.length = 0;
          const key = randomUUID();
          const plain = await ask(key, '/plain');
          const first = await ask(key);
          const replay = await ask(key);
          expect(first.statusLine).toBe(plain.statusLine);
          expect(first.body.equals(plain.body)).toBe(true);
          expect(comparable(first.headerLines)).toEqual(comparable(plain.headerLines));
          expect(replay.statusLine).toBe(first.statusLine);
          expect(replay.body.equals(first.body)).toBe(true);
          expect(replay.headerLines).toContain('Idempotency-Replayed: true');
          expect(comparable(replay.headerLines)).toEqual(comparable(first.headerLines));
          expect(test.lines).toEqual([]);
        }),
        parameters(RESPONSES),
      );
    },
    SLOW_TEST_MS,
  );

  it('is replayed also when the body is not what its Content-Encoding says', async () => {
    const encodings = fc.constantFrom('gzip', 'x-gzip', 'deflate', 'br', 'GZIP', 'identity', 'gzip, br', 'no-such');
    const encoded = fc.record({ given: answers, encoding: encodings, accepted: fc.constantFrom('', 'gzip', '*;q=0') });
    await fc.assert(
      fc.asyncProperty(encoded, async ({ given, encoding, accepted }) => {
        answer = { ...given, way: 'raw', headers: [['Content-Encoding', encoding]] };
        const key = randomUUID();
        const first = await ask(key);
        const replay = await ask(key, '', [['Accept-Encoding', accepted]]);
        expect(replay.statusLine).toBe(first.statusLine);
        expect([first.body, decoded(encoding, first.body)]).toContainEqual(replay.body);
        expect(headerOf(replay, 'Idempotency-Replayed')).toBe('true');
      }),
      parameters(RESPONSES / 4),
    );
  });
});

/** A few bytes may happen to be what their encoding says. */
function decoded(encoding: string, body: Buffer): Buffer | undefined {
  const decoders = { gzip: gunzipSync, 'x-gzip': gunzipSync, deflate: inflateSync, br: brotliDecompressSync };
  try {
    return decoders[encoding.toLowerCase() as keyof typeof decoders]?.(body);
  } catch {
    return undefined;
  }
}

/** A body that was held is sent with its length, where it would have been sent in chunks. */
function comparable(headerLines: string[]): string[] {
  return withoutVolatile(headerLines)
    .filter((line) => !/^(?:idempotency-key|idempotency-replayed|content-length|transfer-encoding):/i.test(line))
    .toSorted();
}
