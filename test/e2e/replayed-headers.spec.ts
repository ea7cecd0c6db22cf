import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { brotliCompressSync, deflateSync, gunzipSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Controller, Header, HttpCode, Param, Post, Res, StreamableFile } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import type { FastifyAdapter } from '@nestjs/platform-fastify';
import type { DataSource } from 'typeorm';
import { Idempotent } from '../../src/index.js';
import { type RawResponse, withoutVolatile } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

/** What `@Res()` hands over: Express' response, or Fastify's reply. */
interface AnyResponse {
  header(name: string, value: string | string[]): AnyResponse;
  raw?: ServerResponse;
}

const rawOf = (response: AnyResponse): ServerResponse => response.raw ?? (response as unknown as ServerResponse);

const TEXT = 'The quick brown fox jumps over the lazy dog. '.repeat(20);
const ENCODED: Record<string, Buffer> = {
  gzip: gzipSync(TEXT),
  'X-GZIP': gzipSync(TEXT),
  br: brotliCompressSync(TEXT),
  deflate: deflateSync(TEXT),
  rot13: Buffer.from('Gur dhvpx oebja sbk'),
  empty: Buffer.alloc(0),
};

/** By lower-case name, what the first response carries and no other one may. */
const FORBIDDEN: Record<string, string> = {
  authorization: 'Bearer of-the-first',
  'authentication-info': 'nextnonce="of-the-first"',
  connection: 'close',
  date: 'Thu, 01 Jan 1970 00:00:00 GMT',
  'keep-alive': 'timeout=77',
  'proxy-authenticate': 'Basic realm="of-the-first"',
  'proxy-own': 'of-the-first',
  'set-cookie': 'token=of-the-first',
  upgrade: 'websocket',
  'csrf-token': 'of-the-first',
  'x-csrf-token': 'of-the-first',
  'x-xsrf-token': 'of-the-first',
  'x-auth-token': 'of-the-first',
  'x-access-token': 'of-the-first',
  'x-refresh-token': 'of-the-first',
  'x-amz-security-token': 'of-the-first',
  'x-api-key': 'of-the-first',
  'x-session-id': 'of-the-first',
  'server-timing': 'of-the-first;dur=1',
  'x-response-time': '1 ms',
  'www-authenticate': 'Basic realm="of-the-first"',
};

const DEFAULTS = () => Idempotent();

@Controller()
class Handlers {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('plain')
  @DEFAULTS()
  plain() {
    return { plain: true };
  }

  @Post('changing')
  @DEFAULTS()
  changing(@Res({ passthrough: true }) response: AnyResponse) {
    const raw = rawOf(response);
    raw.setHeader('X-Changed', 'by the handler');
    raw.removeHeader('X-Removed');
    raw.setHeader('X-Added', 'by the handler');
    raw.appendHeader('X-Extended', 'by the handler');
    return { changed: true };
  }

  @Post('forbidden')
  @DEFAULTS()
  forbidden(@Res({ passthrough: true }) response: AnyResponse) {
    const raw = rawOf(response);
    Object.entries(FORBIDDEN).forEach(([name, value]) => raw.appendHeader(name, value));
    raw.setHeader('X-Allowed', 'yes');
    return { forbidden: true };
  }

  @Post('repeated')
  @DEFAULTS()
  repeated(@Res({ passthrough: true }) response: AnyResponse) {
    response.header('Link', ['</1>; rel="first"', '</2>; rel="next"']);
    rawOf(response).appendHeader('X-Lines', 'b').appendHeader('X-Lines', ['a', 'b']);
    return { repeated: true };
  }

  @Post('chosen')
  @Idempotent({ replayHeaders: { keep: ['Set-Cookie', 'x-request-id'], drop: ['X-SECRET', 'ETag'] } })
  chosen(@Res({ passthrough: true }) response: AnyResponse) {
    rawOf(response).appendHeader('Set-Cookie', ['a=1', 'b=2']);
    response.header('X-Secret', 'of the first').header('X-Open', 'of the first').header('ETag', '"1"');
    return { chosen: true };
  }

  @Post('encoded/:coding')
  @DEFAULTS()
  encoded(@Param('coding') coding: string, @Res({ passthrough: true }) response: AnyResponse) {
    response.header('Content-Encoding', coding).header('ETag', `"${coding}"`).header('Vary', 'Accept-Encoding');
    return new StreamableFile(ENCODED[coding]!, { type: 'text/plain' });
  }

  @Post('encoded-always')
  @Header('Content-Encoding', 'gzip')
  @Header('Content-Type', 'text/plain')
  @DEFAULTS()
  encodedAlways() {
    return new StreamableFile(ENCODED['gzip']!);
  }

  @Post('not-encoded-after-all')
  @DEFAULTS()
  notEncoded(@Res({ passthrough: true }) response: AnyResponse) {
    response.header('Content-Encoding', 'gzip');
    return new StreamableFile(Buffer.from('not gzip'), { type: 'text/plain' });
  }

  @Post('empty/:status')
  @DEFAULTS()
  empty(@Param('status') status: string, @Res() response: AnyResponse) {
    rawOf(response).writeHead(Number(status), { ETag: '"empty"', 'Content-Location': '/here' }).end();
  }

  @Post('no-content')
  @HttpCode(204)
  @DEFAULTS()
  noContent(@Res({ passthrough: true }) response: AnyResponse) {
    response.header('ETag', 'W/"v2"');
  }

  @Post('undone')
  @DEFAULTS()
  async undone(@Res({ passthrough: true }) response: AnyResponse) {
    rawOf(response).setHeader('X-Changed', 'by the handler');
    rawOf(response).removeHeader('X-Removed');
    response.header('Location', '/payments/1').header('Set-Cookie', 'paid=yes');
    await this.dataSource.query('select 1 / 0').catch(() => undefined);
    return { paid: true };
  }
}

type Next = () => void;
type Middleware = (request: IncomingMessage, response: ServerResponse, next: Next) => void;

let requests = 0;

/** What runs before the route and differs from one request to the next. */
const ownHeaders: Middleware = (_, response, next) => {
  requests++;
  response.setHeader('X-Request-Id', `request-${requests}`);
  response.setHeader('X-RateLimit-Remaining', String(1000 - requests));
  response.setHeader('Set-Cookie', `session=${requests}`);
  response.setHeader('X-Changed', `by middleware ${requests}`);
  response.setHeader('X-Removed', `by middleware ${requests}`);
  response.setHeader('X-Extended', 'by middleware');
  next();
};

/** In essence what `compression` and `on-headers` do: a head that is completed, and a body that is encoded, on the way. */
const compressing: Middleware = (request, response, next) => {
  if (request.headers['x-compress'] !== undefined) {
    const { writeHead, end } = response;
    const accepted = /gzip/.test(String(request.headers['accept-encoding']));
    response.writeHead = ((status: number, { 'content-length': length, ...headers }: OutgoingHttpHeaders = {}) => {
      response.writeHead = writeHead;
      response.setHeader('X-Seen-Status', String(status));
      if (accepted) {
        response.setHeader('Content-Encoding', 'gzip');
        response.removeHeader('Content-Length');
      }
      return writeHead.call(
        response,
        status,
        accepted || length === undefined ? headers : { 'content-length': length, ...headers },
      );
    }) as typeof writeHead;
    response.end = ((chunk?: Buffer | string) => {
      if (!response.headersSent) {
        response.writeHead(response.statusCode);
      }
      return end.call(response, accepted ? gzipSync(chunk ?? '') : chunk, 'utf8');
    }) as typeof end;
  }
  next();
};

/** What middleware does that has something to save before the response is over, a session for instance. */
const saving: Middleware = (request, response, next) => {
  if (request.headers['x-saving'] !== undefined) {
    const { end } = response;
    response.end = ((...args: Parameters<typeof end>) => {
      setImmediate(() => end.apply(response, args));
      return response;
    }) as typeof end;
  }
  next();
};

/** All values of a header, one for each line. */
function lines({ headerLines }: RawResponse, name: string): string[] {
  const start = `${name.toLowerCase()}: `;
  return headerLines.filter((line) => line.toLowerCase().startsWith(start)).map((line) => line.slice(start.length));
}

const json = (response: RawResponse) => JSON.parse(response.body.toString()) as unknown;

const REPLAYED = expect.objectContaining({ headerLines: expect.arrayContaining(['Idempotency-Replayed: true']) });

describe.each(ADAPTERS)('the headers of a replay, on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({
      adapter,
      controllers: [Handlers],
      configure: (app) => {
        app.enableCors({ origin: true, credentials: true, exposedHeaders: ['Idempotency-Replayed'] });
        app.use(ownHeaders);
        app.use(compressing);
        app.use(saving);
      },
    });
  });

  afterAll(() => test.close());

  const send = (path: string, headers: [string, string][] = [], key = path) =>
    test.request({ method: 'POST', path: `/${path}`, headers: [['Idempotency-Key', key], ...headers] });

  async function storedHeaders(key: string): Promise<[string, string | null][]> {
    const rows = await test.dataSource.query('select response_headers from idempotency_keys where key = $1', [key]);
    return (rows as [{ response_headers: [string, string | null][] }])[0].response_headers;
  }

  const storedNames = async (key: string) => (await storedHeaders(key)).map(([name]) => name.toLowerCase()).toSorted();

  const ownOf = (response: RawResponse) =>
    Object.fromEntries(
      [
        'X-Request-Id',
        'X-RateLimit-Remaining',
        'Set-Cookie',
        'X-Changed',
        'X-Removed',
        'Access-Control-Allow-Origin',
      ].map((name) => [name, lines(response, name)]),
    );

  const ownOfRequest = (number: number, origin: string) => ({
    'X-Request-Id': [`request-${number}`],
    'X-RateLimit-Remaining': [String(1000 - number)],
    'Set-Cookie': [`session=${number}`],
    'X-Changed': [`by middleware ${number}`],
    'X-Removed': [`by middleware ${number}`],
    'Access-Control-Allow-Origin': [origin],
  });

  describe('that outer middleware had set', () => {
    it("are this request's own, request id, rate limit, cookie and CORS alike", async () => {
      const first = await send('plain', [['Origin', 'https://one.example']]);
      expect(ownOf(first)).toEqual(ownOfRequest(requests, 'https://one.example'));
      const replay = await send('plain', [['Origin', 'https://two.example']]);
      expect(replay).toEqual(REPLAYED);
      expect(ownOf(replay)).toEqual(ownOfRequest(requests, 'https://two.example'));
      expect(lines(replay, 'Access-Control-Expose-Headers')).toEqual(['Idempotency-Replayed']);
      expect(lines(replay, 'Vary')).toEqual(lines(first, 'Vary'));
      expect(await storedNames('plain')).toEqual(
        adapter === 'express' ? ['content-length', 'content-type', 'etag'] : ['content-length', 'content-type'],
      );
    });

    it("are this request's own also on a problem", async () => {
      await send('plain', [], 'problem');
      const problem = await send('plain?other', [['Origin', 'https://three.example']], 'problem');
      expect(problem.status).toBe(422);
      expect(ownOf(problem)).toEqual(ownOfRequest(requests, 'https://three.example'));
      expect(lines(problem, 'Content-Type')).toEqual(['application/problem+json; charset=utf-8']);
    });

    it('are replayed where the handler has changed, extended or removed them', async () => {
      const first = await send('changing');
      const replay = await send('changing');
      expect(replay).toEqual(REPLAYED);
      for (const response of [first, replay]) {
        expect(lines(response, 'X-Changed')).toEqual(['by the handler']);
        expect(lines(response, 'X-Removed')).toEqual([]);
        expect(lines(response, 'X-Added')).toEqual(['by the handler']);
        expect(lines(response, 'X-Extended')).toEqual(['by middleware', 'by the handler']);
      }
      expect(lines(replay, 'X-Request-Id')).toEqual([`request-${requests}`]);
      expect(await storedHeaders('changing')).toContainEqual(['x-removed', null]);
    });

    it('are as they were when the response of the handler is thrown away, and its own are gone', async () => {
      const failed = await send('undone', [['Origin', 'https://four.example']]);
      expect(failed.status).toBe(500);
      expect(ownOf(failed)).toEqual(ownOfRequest(requests, 'https://four.example'));
      expect(lines(failed, 'Location')).toEqual([]);
      expect(lines(failed, 'ETag')).toEqual([]);
      expect(lines(failed, 'Content-Type')).toEqual(['application/problem+json; charset=utf-8']);
    });
  });

  it('never hold what belongs to one message or one caller, and neither does the row', async () => {
    const first = await send('forbidden');
    for (const [name, value] of Object.entries(FORBIDDEN)) {
      expect(lines(first, name)).toContain(value);
    }
    const replay = await send('forbidden');
    expect(replay).toEqual(REPLAYED);
    expect(lines(replay, 'X-Allowed')).toEqual(['yes']);
    expect(lines(replay, 'Set-Cookie')).toEqual([`session=${requests}`]);
    expect(new Date(lines(replay, 'Date')[0]!).getFullYear()).toBeGreaterThan(2000);
    const { connection: _, ...forbidden } = FORBIDDEN; // the client of the test asks for it
    for (const [name, value] of Object.entries(forbidden)) {
      expect(lines(replay, name)).not.toContain(value);
    }
    const names = await storedNames('forbidden');
    expect(names).toContain('x-allowed');
    expect(names.filter((name) => name in FORBIDDEN)).toEqual([]);
    const row = await test.dataSource.query(`select k::text as text from idempotency_keys k where key = 'forbidden'`);
    expect(JSON.stringify(row)).not.toMatch(/of-the-first|session=/);
  });

  it('repeat the lines that the first response had, in their order', async () => {
    const first = await send('repeated');
    const replay = await send('repeated');
    expect(replay).toEqual(REPLAYED);
    for (const response of [first, replay]) {
      expect(lines(response, 'Link')).toEqual(['</1>; rel="first"', '</2>; rel="next"']);
      expect(lines(response, 'X-Lines')).toEqual(['b', 'a', 'b']);
    }
  });

  it('are more or fewer where the route says so', async () => {
    const first = await send('chosen');
    expect(lines(first, 'X-Secret')).toEqual(['of the first']);
    const replay = await send('chosen');
    expect(replay).toEqual(REPLAYED);
    expect(lines(replay, 'Set-Cookie')).toEqual(lines(first, 'Set-Cookie'));
    expect(lines(replay, 'X-Request-Id')).toEqual(lines(first, 'X-Request-Id'));
    expect(lines(replay, 'X-Open')).toEqual(['of the first']);
    expect(lines(replay, 'X-Secret')).toEqual([]);
    expect(lines(replay, 'ETag')).toEqual([]);
    expect(lines(replay, 'X-RateLimit-Remaining')).toEqual([String(1000 - requests)]);
    expect((await storedNames('chosen')).filter((name) => ['x-secret', 'etag'].includes(name))).toEqual([]);
  });

  describe('with an encoded body', () => {
    it.each([
      ['gzip', undefined],
      ['gzip', 'gzip'],
      ['gzip', 'br;q=1.0, GZip;q=0.5'],
      ['gzip', '*'],
      ['br', 'gzip, br'],
      ['deflate', 'deflate;q=0.001'],
      ['X-GZIP', 'x-gzip'],
      ['rot13', 'gzip'],
      ['rot13', 'identity'],
      ['empty', 'identity'],
    ])('are as stored for %s, which a client takes that accepts %s', async (coding, accepted) => {
      const key = `${coding} for ${accepted}`;
      const first = await send(`encoded/${coding}`, [], key);
      expect(first.body.equals(ENCODED[coding]!)).toBe(true);
      const replay = await send(
        `encoded/${coding}`,
        accepted === undefined ? [] : [['Accept-Encoding', accepted]],
        key,
      );
      expect(replay).toEqual(REPLAYED);
      expect(replay.body.equals(first.body)).toBe(true);
      for (const name of ['Content-Encoding', 'Content-Length', 'Content-Type', 'ETag', 'Vary']) {
        expect([name, lines(replay, name)]).toEqual([name, lines(first, name)]);
      }
      expect(lines(replay, 'Content-Encoding')).toEqual([coding]);
    });

    it.each([
      ['gzip', 'identity'],
      ['gzip', ''],
      ['gzip', 'br, deflate'],
      ['gzip', 'gzip;q=0'],
      ['gzip', '*;q=0'],
      ['gzip', 'gzip; q=0.000, *'],
      ['br', 'gzip'],
      ['deflate', 'gzip, br'],
      ['X-GZIP', 'identity'],
    ])(
      'are those of the decoded body for %s, which a client does not take that accepts %j',
      async (coding, accepted) => {
        const key = `${coding} not for ${accepted}`;
        const first = await send(`encoded/${coding}`, [], key);
        const replay = await send(`encoded/${coding}`, [['Accept-Encoding', accepted]], key);
        expect(replay).toEqual(REPLAYED);
        expect(replay.body.toString()).toBe(TEXT);
        expect(lines(replay, 'Content-Encoding')).toEqual([]);
        expect(lines(replay, 'Content-Length')).toEqual([String(TEXT.length)]);
        expect(lines(replay, 'ETag')).toEqual([]);
        expect(lines(replay, 'Content-Type')).toEqual(['text/plain']);
        expect((await send(`encoded/${coding}`, [['Accept-Encoding', coding]], key)).body.equals(first.body)).toBe(
          true,
        );
      },
    );

    it('tell also of an encoding that the route set before the handler ran', async () => {
      const first = await send('encoded-always', [['Accept-Encoding', 'gzip']]);
      expect(lines(first, 'Content-Encoding')).toEqual(['gzip']);
      const replay = await send('encoded-always', [['Accept-Encoding', 'identity']]);
      expect(replay).toEqual(REPLAYED);
      expect(lines(replay, 'Content-Encoding')).toEqual([]);
      expect(replay.body.toString()).toBe(TEXT);
      expect((await send('encoded-always', [['Accept-Encoding', 'gzip']])).body.equals(first.body)).toBe(true);
    });

    it('are as stored where the body is not what they say', async () => {
      const first = await send('not-encoded-after-all');
      const replay = await send('not-encoded-after-all', [['Accept-Encoding', 'identity']]);
      expect(replay).toEqual(REPLAYED);
      expect(replay.body.toString()).toBe('not gzip');
      expect(lines(replay, 'Content-Encoding')).toEqual(lines(first, 'Content-Encoding'));
    });
  });

  describe('without a body', () => {
    it.each(['204', '304', '205'])('of a %s are the same', async (status) => {
      const first = await send(`empty/${status}`);
      const replay = await send(`empty/${status}`);
      expect(replay).toEqual(REPLAYED);
      const own = (response: RawResponse) =>
        withoutVolatile(response.headerLines).filter((line) => /^(?:etag|content-|transfer-)/i.test(line));
      expect(own(replay)).toEqual(own(first));
      expect(lines(replay, 'ETag')).toEqual(['"empty"']);
      expect(lines(replay, 'Content-Location')).toEqual(['/here']);
      expect([replay.status, replay.body.length]).toEqual([Number(status), 0]);
    });

    it('of a handler for 204 name neither length nor encoding', async () => {
      await send('no-content');
      const replay = await send('no-content');
      expect(replay).toEqual(REPLAYED);
      expect(replay.status).toBe(204);
      expect(lines(replay, 'ETag')).toEqual(['W/"v2"']);
      expect(replay.headerLines.filter((line) => /^(?:content-length|transfer-encoding)/i.test(line))).toEqual([]);
    });
  });

  describe('on the way through middleware that changes the response', () => {
    const bodyOf = (response: RawResponse) =>
      lines(response, 'Content-Encoding')[0] === 'gzip'
        ? gunzipSync(response.body).toString()
        : response.body.toString();

    it.each([
      ['gzip', undefined],
      [undefined, 'gzip'],
      ['gzip', 'gzip'],
    ])('are complete, for a first client that accepts %s and one that retries with %s', async (one, other) => {
      const key = `compressed for ${one}, then ${other}`;
      const accepting = (coding: string | undefined): [string, string][] => [
        ['X-Compress', 'yes'],
        ...(coding === undefined ? [] : [['Accept-Encoding', coding] as [string, string]]),
      ];
      const first = await send('plain', accepting(one), key);
      const replay = await send('plain', accepting(other), key);
      expect(replay).toEqual(REPLAYED);
      expect(lines(first, 'Content-Encoding')).toEqual(one === undefined ? [] : [one]);
      expect(lines(replay, 'Content-Encoding')).toEqual(other === undefined ? [] : [other]);
      for (const response of [first, replay]) {
        expect(bodyOf(response)).toBe('{"plain":true}');
        expect(lines(response, 'X-Seen-Status')).toEqual(['201']);
        expect(lines(response, 'Content-Type')).toEqual(['application/json; charset=utf-8']);
      }
      const names = await storedNames(key);
      expect(names).not.toContain('content-encoding');
      expect(names).not.toContain('x-seen-status');
    });

    it('are complete on a problem as well', async () => {
      await send('plain', [['X-Compress', 'yes']], 'compressed problem');
      const problem = await send(
        'plain?x',
        [
          ['X-Compress', 'yes'],
          ['Accept-Encoding', 'gzip'],
        ],
        'compressed problem',
      );
      expect(problem.status).toBe(422);
      expect(JSON.parse(bodyOf(problem))).toMatchObject({ type: 'urn:nestjs-idempotency:key-reused' });
      expect(lines(problem, 'X-Seen-Status')).toEqual(['422']);
    });

    it('come also when it ends the response later than it was told to', async () => {
      const saved: [string, string][] = [['X-Saving', 'yes']];
      const first = await send('plain', saved, 'saved');
      expect(json(first)).toEqual({ plain: true });
      const replay = await send('plain', saved, 'saved');
      expect(replay).toEqual(REPLAYED);
      expect(replay.body.equals(first.body)).toBe(true);
      expect(lines(replay, 'Content-Length')).toEqual(lines(first, 'Content-Length'));
      expect((await send('plain?x', saved, 'saved')).status).toBe(422);

      const undone = await send('undone', saved, 'saved and undone');
      expect(undone.status).toBe(500);
      expect(json(undone)).toMatchObject({ type: 'urn:nestjs-idempotency:transaction-failed' });
    });
  });
});

describe('the headers of a replay behind an onSend hook, which only Fastify has', () => {
  it('are those of the first response, whose body the hook has changed once', async () => {
    let sent = 0;
    const test = await createTestApp({
      adapter: 'fastify',
      controllers: [Handlers],
      configure: (app) => {
        (app.getHttpAdapter() as FastifyAdapter).getInstance().addHook('onSend', async (_, reply, payload) => {
          sent++;
          void reply.header('x-sent', String(sent)).header('x-request-id', `sent-${sent}`);
          return `{"sent":${sent},"payload":${String(payload)}}`;
        });
      },
    });
    try {
      const send = (path: string) =>
        test.request({ method: 'POST', path: `/${path}`, headers: [['Idempotency-Key', 'k']] });
      const first = await send('plain');
      expect(json(first)).toEqual({ sent: 1, payload: { plain: true } });
      const replay = await send('plain');
      expect(replay).toEqual(REPLAYED);
      expect(replay.body.equals(first.body)).toBe(true);
      expect(lines(replay, 'x-sent')).toEqual(['1']);
      const problem = await send('plain?x');
      expect(problem.status).toBe(422);
      expect(lines(problem, 'x-sent')).toEqual([String(sent)]);
    } finally {
      await test.close();
    }
  });
});
