import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import type { BodyCase } from './body-views.js';

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
export const change = fc.oneof(
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

export const bodyCase = fc
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
