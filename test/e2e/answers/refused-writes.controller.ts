import type { ServerResponse } from 'node:http';
import { Controller, Param, Post, Res, type Type } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import type { Repository } from 'typeorm';
import type { Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { rawOf } from './controller.js';

/** What Node refuses by an error where it is written. */
export const REFUSED: Record<string, (raw: ServerResponse) => void> = {
  'a status of 1000': (raw) => Object.assign(raw, { statusCode: 1000 }).end('text'),
  'a status of 99': (raw) => Object.assign(raw, { statusCode: 99 }).end('text'),
  'a status that is no number': (raw) => raw.writeHead(Number.NaN).end('text'),
  'a status of 5000 in writeHead': (raw) => raw.writeHead(5000, {}).end('text'),
  'a chunk that is a number': (raw) => void (raw.write(123 as never), raw.end()),
  'a chunk that is null': (raw) => void (raw.write(null as never), raw.end()),
  'a chunk that is a list': (raw) => void (raw.write([120] as never), raw.end()),
  'an end that is a number': (raw) => raw.end(5 as never),
};

/** The same, of which a plain route may never recover. */
export const REFUSED_FOR_GOOD: Record<string, (raw: ServerResponse) => void> = {
  'a reason of two lines': (raw) => Object.assign(raw, { statusMessage: 'one\ntwo' }).end('text'),
  'trailers behind a length': (raw) => raw.setHeader('Trailer', 'X').setHeader('Content-Length', 4).end('text'),
  'fewer bytes than said': (raw) =>
    Object.assign(raw, { strictContentLength: true }).setHeader('Content-Length', 5).end('text'),
  'more bytes than said': (raw) =>
    Object.assign(raw, { strictContentLength: true }).setHeader('Content-Length', 3).end('text'),
};

export const TAKEN: Record<string, (raw: ServerResponse) => void> = {
  'an end with nothing that is false': (raw) => raw.end(false as never),
  'trailers that nothing has announced': (raw) => {
    raw.write('text');
    raw.addTrailers({ 'X-Checksum': 'abc' });
    raw.end();
  },
  'trailers behind a body in one piece': (raw) => {
    raw.addTrailers({ 'X-Checksum': 'abc' });
    raw.end('text');
  },
  'as many bytes as said': (raw) =>
    Object.assign(raw, { strictContentLength: true }).setHeader('Content-Length', 4).end('text'),
};

const ALL = { ...REFUSED, ...REFUSED_FOR_GOOD, ...TAKEN };

export function refusedWritesController(prefix: string, idempotent: typeof Idempotent): Type {
  @Controller(prefix)
  @idempotent({ timeoutMs: 1_000 })
  class RefusedWrites {
    constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

    @Post(':what')
    async write(@Param('what') what: string, @Res() response: never) {
      await this.effects.insert({ label: prefix });
      ALL[what]!(rawOf(response));
    }
  }
  return RefusedWrites;
}
