import { Readable } from 'node:stream';
import type { ServerResponse } from 'node:http';
import { Controller, Header, Param, Post, Res, StreamableFile, type Type } from '@nestjs/common';
import type { Idempotent } from '../../../src/index.js';
import { rawOf } from './controller.js';

/** `é` is one byte of latin1, and two of UTF-8, in which some write headers as well. */
const NAME = 'attachment; filename="é.txt"';
const IN_UTF8 = Buffer.from(NAME).toString('latin1');

interface AnyResponse {
  header(name: string, value: string): AnyResponse;
  send(body: unknown): AnyResponse;
  hijack?(): void;
  raw?: ServerResponse;
}

/** Ways to write a response, by which Node decides in which bytes its head goes out. */
export const WAYS: Record<string, (raw: ServerResponse) => void> = {
  'end(text)': (raw) => raw.end('text'),
  'end(text) in latin1': (raw) => raw.end('text', 'latin1'),
  'end(text) in hex': (raw) => raw.end('74657874', 'hex'),
  'end(bytes)': (raw) => raw.end(Buffer.from('text')),
  'end()': (raw) => raw.end(),
  'end() of a 204': (raw) => Object.assign(raw, { statusCode: 204 }).end(),
  'write(text)': (raw) => void (raw.write('te'), raw.end('xt')),
  'write(bytes)': (raw) => void (raw.write(Buffer.from('te')), raw.end('xt')),
  'write(text) with a length': (raw) => void (raw.setHeader('Content-Length', 4), raw.write('te'), raw.end('xt')),
  'write(bytes) with a length': (raw) =>
    void (raw.setHeader('Content-Length', 4), raw.write(Buffer.from('te')), raw.end('xt')),
  'end(text) with a length': (raw) => void (raw.setHeader('Content-Length', 4), raw.end('text')),
  'writeHead, end(text)': (raw) => raw.writeHead(202, { 'Content-Length': 4 }).end('text'),
  'writeHead, end(bytes)': (raw) => raw.writeHead(202).end(Buffer.from('text')),
  'flushHeaders, end(text)': (raw) => void (raw.flushHeaders(), raw.end('text')),
  'a reason': (raw) => raw.writeHead(200, 'Très bien').end('text'),
};

const RETURNED: Record<string, () => unknown> = {
  text: () => 'text',
  object: () => ({ text: true }),
  nothing: () => undefined,
  file: () => new StreamableFile(Buffer.from('text')),
  stream: () => new StreamableFile(Readable.from([Buffer.from('te'), Buffer.from('xt')]), { length: 4 }),
};

export function headBytesController(prefix: string, idempotent: typeof Idempotent): Type {
  @Controller(prefix)
  @idempotent()
  class HeadBytes {
    @Post('raw/:disposition/:way')
    raw(@Param('way') way: string, @Param('disposition') disposition: string, @Res() response: AnyResponse) {
      response.hijack?.();
      const raw = rawOf(response as never);
      raw.setHeader('Content-Disposition', disposition === 'utf8' ? IN_UTF8 : NAME);
      raw.setHeader('X-Name', ['é', 'plain', 'ÿ']);
      WAYS[way]!(raw);
    }

    @Post('returned/:disposition/:what')
    @Header('X-Fixed', 'é')
    returned(
      @Param('what') what: string,
      @Param('disposition') disposition: string,
      @Res({ passthrough: true }) response: AnyResponse,
    ) {
      response.header('Content-Disposition', disposition === 'utf8' ? IN_UTF8 : NAME).header('X-Name', 'é');
      return RETURNED[what]!();
    }

    @Post('sent/:disposition/:what')
    sent(@Param('what') what: string, @Param('disposition') disposition: string, @Res() response: AnyResponse) {
      const bytes = what === 'bytes' ? Buffer.from('text') : 'text';
      response
        .header('Content-Disposition', disposition === 'utf8' ? IN_UTF8 : NAME)
        .header('X-Name', 'é')
        .send(bytes);
    }
  }
  return HeadBytes;
}

export const PATHS = ['latin1', 'utf8'].flatMap((disposition) => [
  ...Object.keys(WAYS).map((way) => `raw/${disposition}/${way}`),
  ...Object.keys(RETURNED).map((what) => `returned/${disposition}/${what}`),
  ...['bytes', 'text'].map((what) => `sent/${disposition}/${what}`),
]);
