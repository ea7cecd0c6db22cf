import type { ServerResponse } from 'node:http';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import { Controller, Header, HttpCode, Param, Post, Res, StreamableFile } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { Idempotent } from '../../../src/index.js';

/** What `@Res()` hands over: Express' response, or Fastify's reply. */
interface AnyResponse {
  header(name: string, value: string | string[]): AnyResponse;
  raw?: ServerResponse;
}

const rawOf = (response: AnyResponse): ServerResponse => response.raw ?? (response as unknown as ServerResponse);

export const TEXT = 'The quick brown fox jumps over the lazy dog. '.repeat(20);

export const ENCODED: Record<string, Buffer> = {
  gzip: gzipSync(TEXT),
  'X-GZIP': gzipSync(TEXT),
  br: brotliCompressSync(TEXT),
  deflate: deflateSync(TEXT),
  rot13: Buffer.from('Gur dhvpx oebja sbk'),
  empty: Buffer.alloc(0),
};

/** By lower-case name, what the first response carries and no other one may. */
export const FORBIDDEN: Record<string, string> = {
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
export class Handlers {
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
