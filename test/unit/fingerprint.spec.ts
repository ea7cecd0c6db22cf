import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, request as httpRequest } from 'node:http';
import { connect, createServer as createHttp2Server } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, describe, expect, it } from '@jest/globals';
import * as fc from 'fast-check';
import { fingerprintOf, fingerprintRequest } from '../../src/http/fingerprint.js';
import { FINGERPRINT_VERSION } from '../../src/protocol/constants.js';
import { UnreadBodyError } from '../../src/http/unread-body.error.js';
import type { AddressInfo, Server } from 'node:net';

interface Sent {
  method?: string;
  url?: string;
  type?: string;
  body?: unknown;
  headers?: Record<string, string>;
  [property: string]: unknown;
}

/** A request whose body, if it has one, was read. */
function requestOf({ method = 'POST', url = '/payments', type, body, headers, ...rest }: Sent): object {
  const framing = body === undefined ? {} : { 'content-length': '1' };
  const media = type === undefined ? {} : { 'content-type': type };
  return {
    method,
    url,
    originalUrl: url,
    headers: { ...framing, ...media, ...headers },
    httpVersionMajor: 1,
    readableDidRead: body !== undefined,
    readableLength: 0,
    ...(body === undefined ? {} : { body }),
    ...rest,
  };
}

async function hex(sent: Sent): Promise<string> {
  return (await fingerprintRequest(requestOf(sent))).toString('hex');
}

const JSON_TYPE = 'application/json';
const FORM_TYPE = 'multipart/form-data; boundary=b';

const sha256 = (text: string | Buffer): string => createHash('sha256').update(text).digest('hex');

// Rows outlive deployments. Whoever changes what is hashed here gives the algorithm a new version.
describe('version 1', () => {
  const scan = { fieldname: 'scan', originalname: 'a.pdf', mimetype: 'Application/PDF', buffer: Buffer.from('pdf') };
  const scanDigest = `{"field":"scan","name":"a.pdf","type":"application/pdf","size":3,"sha256":"${sha256('pdf')}"}`;

  it.each<[string, Sent, string]>([
    ['no body', {}, '["nestjs-idempotency",1,"POST","/payments",[],"","none",[]]'],
    [
      'a query',
      { method: 'delete', url: '/a/b%20c?b=2&a=%C3%BC&b=1' },
      '["nestjs-idempotency",1,"DELETE","/a/b%20c",[["a","Ã¼"],["b","2"],["b","1"]],"","none",[]]',
    ],
    [
      'JSON',
      { type: 'application/json; charset=utf-8', body: { b: [1, 'ü', null], a: { c: 0.1 } } },
      '["nestjs-idempotency",1,"POST","/payments",[],"application/json","json",[]]{"a":{"c":0.1},"b":[1,"ü",null]}',
    ],
    [
      'text',
      { type: 'text/plain', body: 'zehn €' },
      '["nestjs-idempotency",1,"POST","/payments",[],"text/plain","bytes",[]]zehn €',
    ],
    [
      'a form with a file',
      { type: 'multipart/form-data; boundary=b', body: { note: 'x' }, file: scan },
      `["nestjs-idempotency",1,"POST","/payments",[],"multipart/form-data","multipart",[${scanDigest}]]{"note":"x"}`,
    ],
  ])('hashes %s like this for ever', async (_, sent, hashed) => {
    expect(FINGERPRINT_VERSION).toBe(1);
    expect(await hex(sent)).toBe(sha256(hashed));
  });

  it('hashes a resolver’s value like this for ever', () => {
    const [json, bytes] = [
      fingerprintOf({ b: 1, a: '2' }, requestOf({})),
      fingerprintOf(Buffer.from('x'), requestOf({})),
    ];

    expect(json.toString('hex')).toBe(
      sha256('["nestjs-idempotency",1,"POST","/payments","resolved JSON"]{"a":"2","b":1}'),
    );
    expect(bytes.toString('hex')).toBe(sha256('["nestjs-idempotency",1,"POST","/payments","resolved bytes"]x'));
  });
});

describe('method and path', () => {
  it('keep the same key on another endpoint apart', async () => {
    const fingerprints = await Promise.all(
      [
        { url: '/payments' },
        { url: '/refunds' },
        { url: '/api/payments' },
        { url: '/payments/' },
        { url: '/Payments' },
        { url: '/payments/7' },
        { url: '/payments/8' },
        { url: '/payments%2F8' },
        { url: '/', method: 'PUT' },
        { method: 'PUT' },
        { method: 'DELETE' },
      ].map(hex),
    );

    expect(new Set(fingerprints).size).toBe(fingerprints.length);
  });

  it('are those that the client sent, not what a rewriting middleware made of them', async () => {
    expect(await hex({ url: '/', originalUrl: '/payments?a=1' })).toBe(await hex({ url: '/payments?a=1' }));
    expect(await hex({ url: '/payments', originalUrl: undefined })).toBe(await hex({ url: '/payments' }));
  });

  it('are the same when a proxy sends the whole URL', async () => {
    expect(await hex({ url: 'http://api.example.com:8080/payments?a=1' })).toBe(await hex({ url: '/payments?a=1' }));
  });
});

describe('the query', () => {
  it.each([
    ['the order of different names', 'a=1&b=2', 'b=2&a=1'],
    ['percent escapes', 'a=A%2fb&%61%5B%5D=1', '%61=%41%2Fb&a[]=1'],
    ['the spelling of spaces', 'a=1+1', 'a=1%201'],
    ['characters beyond ASCII', 'a=ü', 'a=%FC'], // Node decodes the bytes of a URL as Latin-1
    ['empty parameters', '&a=1&&', 'a=1'],
    ['an equals sign without value', 'a', 'a='],
    ['a question mark without query', '', ''],
  ])('does not depend on %s', async (_, one, other) => {
    expect(await hex({ url: `/?${one}` })).toBe(await hex({ url: `/?${other}` }));
    expect(await hex({ url: '/?' })).toBe(await hex({ url: '/' }));
  });

  it.each([
    ['a value', 'a=1', 'a=2'],
    ['a name', 'a=1', 'A=1'],
    ['the order of one name’s values', 'a=1&a=2', 'a=2&a=1'],
    ['how often a value is there', 'a=1', 'a=1&a=1'],
    ['an equals sign in the value', 'a=b=1', 'a%3Db=1'],
    ['an ampersand in the value', 'a=1&b=2', 'a=1%26b=2'],
    ['a plus sign', 'a=1+1', 'a=1%2B1'],
    ['bytes that are not UTF-8', 'a=%FE', 'a=%FF'],
    ['a percent sign that escapes nothing', 'a=%zz', 'a=%25%7a'],
    ['a second question mark', 'a=1?', 'a=1'],
    ['its presence', 'a=1', ''],
  ])('depends on %s', async (_, one, other) => {
    expect(await hex({ url: `/?${one}` })).not.toBe(await hex({ url: `/?${other}` }));
  });
});

describe('the media type', () => {
  it('counts without its parameters and in any case', async () => {
    const body = { a: 1 };
    const fingerprint = await hex({ type: JSON_TYPE, body });

    expect(await hex({ type: 'Application/JSON ; charset=utf-8', body })).toBe(fingerprint);
    expect(await hex({ type: 'application/vnd.api+json', body })).not.toBe(fingerprint);
    expect(await hex({ type: 'application/x-www-form-urlencoded', body })).not.toBe(fingerprint);
  });
});

describe('the body', () => {
  it('is the same with its JSON members in another order', async () => {
    const one = await hex({ type: JSON_TYPE, body: JSON.parse('{"a":1,"b":{"c":2,"d":3}}') });

    expect(await hex({ type: JSON_TYPE, body: JSON.parse('{"b":{"d":3,"c":2},"a":1}') })).toBe(one);
  });

  it('is another with any other value', async () => {
    const bodies = [
      {},
      [],
      null,
      '',
      0,
      false,
      { a: null },
      { a: undefined, b: 1 },
      '{}',
      [{}],
      { '': '' },
      'null',
      '0',
    ];
    const fingerprints = await Promise.all(bodies.map((body) => hex({ type: JSON_TYPE, body })));

    expect(new Set([...fingerprints, await hex({ type: JSON_TYPE })]).size).toBe(bodies.length + 1);
  });

  it('is the same text whether it was kept as a string or as bytes', async () => {
    const text = 'für Jürgen 😀';

    expect(await hex({ type: 'text/plain', body: Buffer.from(text) })).toBe(
      await hex({ type: 'text/plain', body: text }),
    );
  });

  it('keeps lone surrogates in a JSON string apart', async () => {
    const [one, other] = ['\ud800', '\udfff'].map((body) => hex({ type: JSON_TYPE, body }));

    expect(await one).not.toBe(await other);
  });

  it('is left as it was', async () => {
    const body = JSON.parse('{"b":{"d":1,"c":2},"a":[{"z":1,"y":2}]}') as object;
    await hex({ type: JSON_TYPE, body });

    expect(JSON.stringify(body)).toBe('{"b":{"d":1,"c":2},"a":[{"z":1,"y":2}]}');
  });

  it('may be nested as deeply as the parsers allow', async () => {
    const body: unknown = JSON.parse('['.repeat(524_288) + ']'.repeat(524_288));

    await expect(hex({ type: JSON_TYPE, body })).resolves.toHaveLength(64);
  });
});

describe('any two requests', () => {
  const text = fc.string({ unit: fc.constantFrom('a', '/', '"', ',', '['), maxLength: 2 });
  const sent = fc.record({
    method: fc.constantFrom('POST', 'PUT'),
    path: text,
    query: fc.array(fc.tuple(text, text), { maxLength: 2 }),
    type: fc.constantFrom('', JSON_TYPE, 'text/plain'),
    body: fc.oneof(
      fc.constant(undefined),
      text,
      fc.array(text, { maxLength: 2 }),
      fc.dictionary(text, text, { maxKeys: 2 }),
    ),
  });
  const toSent = ({ path, query, ...rest }: { path: string; query: [string, string][] }): Sent => ({
    url: `/${path}?${new URLSearchParams(query).toString()}`,
    ...rest,
  });
  // Built from few characters, so that a component that runs into the next would be found.
  const components = ({ query, body, ...rest }: { query: [string, string][]; body: unknown }): string => {
    const sorted = query.toSorted(([one], [other]) => (one < other ? -1 : Number(one > other)));
    const members = typeof body === 'object' && !Array.isArray(body) ? Object.entries(body!).toSorted() : { body };
    return JSON.stringify([sorted, members, Object.entries(rest).toSorted()]);
  };

  it('have the same fingerprint only if all their components are the same', async () => {
    await fc.assert(
      fc.asyncProperty(sent, sent, async (one, other) => {
        const areEqual = components(one) === components(other);
        expect((await hex(toSent(one))) === (await hex(toSent(other)))).toBe(areEqual);
      }),
      { numRuns: 1_000 },
    );
  });

  it('have the same fingerprint if they are the same', async () => {
    await fc.assert(
      fc.asyncProperty(sent, async (one) => {
        expect(await hex(toSent(one))).toBe(await hex(toSent({ ...one, query: [...one.query] })));
      }),
    );
  });
});

describe('an upload', () => {
  const folders: string[] = [];
  afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

  async function onDisk(content: string): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), 'fingerprint-'));
    folders.push(folder);
    await writeFile(join(folder, 'f'), content);
    return join(folder, 'f');
  }

  const described = { fieldname: 'scan', originalname: 'a.pdf', mimetype: 'application/pdf', encoding: '7bit' };
  const form = (rest: object): Sent => ({ type: FORM_TYPE, body: { note: 'x' }, ...rest });

  it('is the same in memory and in whatever temporary file', async () => {
    const inMemory = await hex(form({ file: { ...described, buffer: Buffer.from('content'), size: 7 } }));
    const first = { ...described, path: await onDisk('content'), filename: 'c2f1', destination: '/tmp', size: 7 };
    const second = { ...described, path: await onDisk('content'), filename: '9b0e', destination: '/var', size: 7 };
    const changed = { ...described, path: await onDisk('c0ntent'), filename: 'c2f1', destination: '/tmp', size: 7 };

    expect(await hex(form({ file: first }))).toBe(inMemory);
    expect(await hex(form({ file: second }))).toBe(inMemory);
    expect(await hex(form({ file: changed }))).not.toBe(inMemory);
  });

  it('is the same whether multer lists its files or groups them by field', async () => {
    const one = { ...described, buffer: Buffer.from('1') };
    const two = { ...described, fieldname: 'fieldname', buffer: Buffer.from('2') };
    const fingerprint = await hex(form({ files: [one, two] }));

    expect(await hex(form({ files: { fieldname: [two], scan: [one] } }))).toBe(fingerprint);
    expect(await hex(form({ files: [two, one] }))).toBe(fingerprint);
    expect(await hex(form({ files: [one] }))).not.toBe(fingerprint);
    expect(await hex(form({ file: one }))).toBe(await hex(form({ files: [one] })));
  });

  it.each<[string, object]>([
    ['a storage engine that sends the file elsewhere', { ...described, location: 'https://bucket.example.com/c2f1' }],
    ['a storage engine whose path is no file', { ...described, path: 'https://bucket.example.com/c2f1' }],
    ['a library with files of another shape', { name: 'a.pdf', data: Buffer.from('content') }],
  ])('is an error that asks for a resolver with %s', async (_, file) => {
    await expect(hex(form({ file }))).rejects.toThrow(UnreadBodyError);
    await expect(hex(form({ files: { scan: file } }))).rejects.toThrow('`fingerprint` resolver');
  });

  it('keeps the reason when a file cannot be read', async () => {
    await expect(hex(form({ file: { ...described, path: '/nowhere/c2f1' } }))).rejects.toMatchObject({
      name: 'UnreadBodyError',
      cause: { code: 'ENOENT' },
    });
  });

  it('is an error when an onFile hook of @fastify/multipart streamed the file elsewhere', async () => {
    const part = {
      type: 'file',
      fieldname: 'scan',
      filename: 'a.pdf',
      mimetype: 'application/pdf',
      file: { bytesRead: 7 },
      fields: {},
      toBuffer: () => Promise.resolve(Buffer.alloc(0)),
    };
    Object.assign(part.fields, { scan: part });

    await expect(hex({ type: FORM_TYPE, body: part.fields })).rejects.toThrow(
      'neither in memory nor in a readable file',
    );
  });

  it('does not take a JSON field for a part because it looks like one', async () => {
    const lookAlike = {
      type: 'file',
      fieldname: 'a',
      filename: 'a',
      mimetype: 'a',
      file: {},
      fields: { a: {} },
      value: 1,
    };
    const odd = [
      { fieldname: {}, fields: {} },
      { fieldname: 'a', fields: null },
      { fieldname: 'a', fields: 'a' },
      null,
    ];
    const fingerprints = await Promise.all(
      [lookAlike, ...odd, 1, [lookAlike]].map((a) => hex({ type: FORM_TYPE, body: { a } })),
    );

    expect(new Set(fingerprints).size).toBe(fingerprints.length);
  });

  it('tells one value from a list with one value', async () => {
    expect(await hex({ type: FORM_TYPE, body: { a: 'x' } })).not.toBe(
      await hex({ type: FORM_TYPE, body: { a: ['x'] } }),
    );
  });

  it('ignores what other code calls a file of a request that is no form', async () => {
    const body = { a: 1 };

    expect(await hex({ type: JSON_TYPE, body, file: { fieldname: 'x' } })).toBe(await hex({ type: JSON_TYPE, body }));
  });
});

describe('a body that is not there', () => {
  const announced = { headers: { 'content-length': '7' } };

  it.each<[string, Sent]>([
    ['nobody read it', announced],
    [
      'nobody read it and the parser left an empty object, as in Express 4',
      { ...announced, body: {}, readableDidRead: false },
    ],
    ['nobody read it and the parser left null', { ...announced, body: null, readableDidRead: false }],
    ['a parser handed over the stream', { body: Readable.from(['x']) }],
    ['a parser handed over a web stream', { body: new ReadableStream() }],
  ])('is an error that names the decorator to move when %s', async (_, sent) => {
    await expect(hex(sent)).rejects.toThrow(UnreadBodyError);
    await expect(hex(sent)).rejects.toThrow('Move @UseInterceptors(FileInterceptor(...)) below @Idempotent()');
  });

  it('is an error that asks for a resolver when somebody read it and kept it', async () => {
    const kept = hex({ ...announced, readableDidRead: true, type: 'text/csv' });

    await expect(kept).rejects.toThrow(UnreadBodyError);
    await expect(kept).rejects.toThrow('(text/csv) was read, but is not in `request.body`');
  });

  it('is no body when the client sent none', async () => {
    const none = await hex({});

    expect(await hex({ headers: { 'content-length': '0' } })).toBe(none);
    expect(await hex({ body: null, headers: { 'content-length': '0' } })).toBe(none);
    expect(await hex({ body: {}, headers: { 'content-length': '0' } })).toBe(none); // Express 4
    expect(await hex({ readableDidRead: true })).toBe(none);
  });

  it('is what a middleware made up for a client that sent none', async () => {
    const madeUp = hex({ body: { a: 1 }, headers: { 'content-length': '0' } });

    expect(await madeUp).not.toBe(await hex({}));
    expect(await madeUp).not.toBe(await hex({ body: { a: 2 }, headers: { 'content-length': '0' } }));
  });

  it('may have members named like the methods of a stream', async () => {
    const body = { pipe: 1, getReader: 2 };

    await expect(hex({ type: JSON_TYPE, body })).resolves.toHaveLength(64);
  });
});

describe('a body of unknown length', () => {
  type Outcome = Promise<string>;
  const outcomeOf = (request: unknown): Outcome =>
    fingerprintRequest(request).then((fingerprint) => fingerprint.toString('hex'), String);

  async function listening<S extends Server>(server: S): Promise<{ server: S; port: number }> {
    await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
    return { server, port: (server.address() as AddressInfo).port };
  }

  /** Sends chunks, of which the first `atOnce` go along with the headers. */
  async function chunked(chunks: readonly string[], delayed: boolean): Outcome {
    let outcome: Outcome | undefined;
    const { server, port } = await listening(
      createServer((request: IncomingMessage, response) => {
        outcome = outcomeOf(request).finally(() => response.end());
      }),
    );
    const headers = { 'Transfer-Encoding': 'chunked' };
    const request = httpRequest({ port, host: '127.0.0.1', method: 'POST', path: '/payments', headers, agent: false });
    const answered = new Promise((resolve) =>
      request.on('response', (response) => response.resume().on('end', resolve)),
    );
    if (delayed) {
      request.flushHeaders();
      await new Promise((resolve) => server.once('request', resolve));
    }
    for (const chunk of chunks) request.write(chunk);
    request.end();
    await answered;
    server.close();
    return outcome!;
  }

  async function overHttp2(body: string | undefined, endStream: boolean): Outcome {
    let outcome: Outcome | undefined;
    const { server, port } = await listening(
      createHttp2Server((request, response) => {
        outcome = outcomeOf(request).finally(() => response.end());
      }),
    );
    const client = connect(`http://127.0.0.1:${port}`);
    const stream = client.request({ ':method': 'POST', ':path': '/payments' }, { endStream });
    if (!endStream) stream.end(body);
    await new Promise((resolve) => stream.resume().on('end', resolve));
    client.close();
    server.close();
    return outcome!;
  }

  it.each([false, true])('is no body when its only chunk is the last one (sent later: %s)', async (delayed) => {
    expect(await chunked([], delayed)).toBe(await hex({}));
  });

  it.each([false, true])('is an error when a byte arrives that nobody reads (sent later: %s)', async (delayed) => {
    expect(await chunked(['x'], delayed)).toContain('UnreadBodyError');
  });

  it('is no body when a parser came to its end without a byte', async () => {
    const empty = new Readable({ read() {} });
    empty.push(null);
    await empty.toArray();
    const sent = { method: 'POST', url: '/payments', headers: { 'transfer-encoding': 'chunked' }, httpVersionMajor: 1 };

    expect(await outcomeOf(Object.assign(empty, sent, { body: {} }))).toBe(await hex({}));
  });

  it('is an error when the client was gone before the first byte', async () => {
    const gone = new Readable({ read() {} });
    const closed = once(gone, 'close');
    gone.destroy();
    await closed;
    const sent = { method: 'POST', url: '/payments', headers: { 'transfer-encoding': 'chunked' }, httpVersionMajor: 1 };

    await expect(fingerprintRequest(Object.assign(gone, sent))).rejects.toThrow(UnreadBodyError);
  });

  it('is no body over HTTP/2 when the stream ends without data', async () => {
    expect(await overHttp2(undefined, true)).toBe(await hex({}));
    expect(await overHttp2(undefined, false)).toBe(await hex({}));
  });

  it('is an error over HTTP/2 when data arrives that nobody reads', async () => {
    expect(await overHttp2('x', false)).toContain('UnreadBodyError');
  });
});

describe('a resolver’s value', () => {
  const request = requestOf({});
  const of = (value: unknown, sent: Sent = {}): string => fingerprintOf(value, requestOf(sent)).toString('hex');

  it('takes the place of query, media type and body, read or unread', () => {
    const other = { url: '/payments?a=1', type: 'text/plain', headers: { 'content-length': '5' } };

    expect(of({ order: 7 }, other)).toBe(of({ order: 7 }));
  });

  it('does not take the place of method and path', () => {
    expect(of('7', { method: 'PUT' })).not.toBe(of('7'));
    expect(of('7', { url: '/refunds' })).not.toBe(of('7'));
  });

  it('is the same with its members in another order', () => {
    expect(of({ a: 1, b: 2 })).toBe(of({ b: 2, a: 1 }));
  });

  it('is another with any other value or type', () => {
    const values = ['7', 7, 7n, [7], ['7'], null, true, { a: 7 }, '', [], {}, Buffer.from('7'), Buffer.from('"7"')];
    const more = [new Date(7), new Map([['a', 7]]), new Set([8]), Number.NaN, '\ud800', '\ufffd'];
    const fingerprints = [...values, ...more].map((value) => of(value));

    expect(new Set(fingerprints).size).toBe(fingerprints.length);
  });

  it('is never the fingerprint of a whole request', async () => {
    const whole = await fingerprintRequest(request);

    expect([null, {}, [], '', Buffer.alloc(0)].map((value) => of(value))).not.toContain(whole.toString('hex'));
  });

  it('must not be undefined, which is a resolver that forgot to return', () => {
    expect(() => fingerprintOf(undefined, request)).toThrow('The `fingerprint` resolver returned undefined');
  });
});
