import { createReadStream } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  type ArgumentsHost,
  BadRequestException,
  type CallHandler,
  Catch,
  ClassSerializerInterceptor,
  Controller,
  type ExceptionFilter,
  type ExecutionContext,
  Header,
  HttpCode,
  HttpException,
  Injectable,
  type NestInterceptor,
  Post,
  Redirect,
  Res,
  StreamableFile,
  UseFilters,
  UseInterceptors,
} from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { InjectRepository } from '@nestjs/typeorm';
import { Exclude } from 'class-transformer';
import { map, type Observable, of, tap, timeout } from 'rxjs';
import type { Repository } from 'typeorm';
import { Idempotent } from '../../src/index.js';
import { Effect } from '../support/effect.entity.js';
import { withoutVolatile } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

/** What `@Res()` hands over: Express' response, or Fastify's reply. */
interface AnyResponse {
  status(code: number): AnyResponse;
  header(name: string, value: string | string[]): AnyResponse;
  send(body?: unknown): AnyResponse;
  raw?: import('node:http').ServerResponse;
}

@Injectable()
class Envelope implements NestInterceptor {
  intercept(_: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle().pipe(map((data: { items: string[] }) => ({ data: data.items, count: data.items?.length })));
  }
}

@Injectable()
class Timeout implements NestInterceptor {
  intercept(_: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle().pipe(timeout(5_000));
  }
}

@Injectable()
class Logging implements NestInterceptor {
  static readonly seen: string[] = [];

  intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle().pipe(tap({ complete: () => Logging.seen.push(context.getHandler().name) }));
  }
}

@Catch(HttpException)
class TeapotFilter implements ExceptionFilter {
  constructor(private readonly host: HttpAdapterHost) {}

  catch(exception: HttpException, host: ArgumentsHost): void {
    const response = host.switchToHttp().getResponse<AnyResponse>();
    this.host.httpAdapter.setHeader(response, 'X-Filtered', 'yes');
    this.host.httpAdapter.reply(response, { teapot: exception.message }, 418);
  }
}

class Secretive {
  id = 7;

  @Exclude()
  secret = 'not for you';
}

let file: string;

/** The same handlers, with the library and without. */
function kindsController(prefix: string, idempotent: typeof Idempotent) {
  @idempotent()
  @Controller(prefix)
  class Kinds {
    constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

    private async effect<T>(value: T): Promise<T> {
      await this.effects.save({ label: 'done' });
      return value;
    }

    @Post('json')
    json() {
      return this.effect({ id: 1, text: 'Grüße, 世界', nested: { list: [1, 2.5, null] } });
    }

    @Post('array')
    array() {
      return this.effect([{ a: 1 }]);
    }

    @Post('void')
    async void(): Promise<void> {
      await this.effect(undefined);
    }

    @Post('no-content')
    @HttpCode(204)
    async noContent(): Promise<void> {
      await this.effect(undefined);
    }

    @Post('string')
    string() {
      return this.effect('plain text, not JSON');
    }

    @Post('number')
    number() {
      return this.effect(42);
    }

    @Post('null')
    null() {
      return this.effect(null);
    }

    @Post('observable')
    async observable() {
      await this.effect(undefined);
      return of({ first: true }, { last: true });
    }

    @Post('buffer')
    async buffer(@Res() response: AnyResponse) {
      await this.effect(undefined);
      response.header('Content-Type', 'application/octet-stream').send(Buffer.from([0, 1, 0xff, 0xfe, 10, 13, 0]));
    }

    @Post('stream-of-buffer')
    streamOfBuffer() {
      return this.effect(new StreamableFile(Buffer.from([0, 255, 1, 254]), { type: 'image/png', length: 4 }));
    }

    @Post('stream-of-file')
    streamOfFile() {
      return this.effect(new StreamableFile(createReadStream(file), { disposition: 'attachment; filename="a.bin"' }));
    }

    @Post('stream-in-pieces')
    async streamInPieces(@Res() response: AnyResponse) {
      await this.effect(undefined);
      const raw = response.raw ?? (response as unknown as import('node:http').ServerResponse);
      raw.writeHead(202, { 'Content-Type': 'text/plain' });
      for await (const piece of Readable.from(['one ', 'two ', 'three'])) {
        raw.write(piece);
      }
      raw.end();
    }

    @Post('res')
    async res(@Res() response: AnyResponse) {
      response.status(202).header('X-Own', 'yes').send({ by: 'hand' });
      await this.effect(undefined);
    }

    @Post('res-later')
    async resLater(@Res() response: AnyResponse) {
      await this.effect(undefined);
      setImmediate(() => response.status(409).send({ state: 'the handler said so itself' }));
    }

    @Post('passthrough')
    passthrough(@Res({ passthrough: true }) response: AnyResponse) {
      response.status(203).header('X-Passed', 'through');
      return this.effect({ ok: true });
    }

    @Post('passthrough-conflict')
    passthroughConflict(@Res({ passthrough: true }) response: AnyResponse) {
      response.status(409);
      return this.effect({ state: 'taken' });
    }

    @Post('redirect')
    @Redirect('/elsewhere', 303)
    async redirect(): Promise<void> {
      await this.effect(undefined);
    }

    @Post('redirect-computed')
    @Redirect()
    redirectComputed() {
      return this.effect({ url: '/computed/1', statusCode: 307 });
    }

    @Post('headers')
    @Header('Cache-Control', 'no-store')
    headers(@Res({ passthrough: true }) response: AnyResponse) {
      response.header('Location', '/things/1').header('ETag', '"v1"').header('X-MiXeD-Case', 'kept');
      return this.effect({ ok: true });
    }

    @Post('repeated-headers')
    repeatedHeaders(@Res({ passthrough: true }) response: AnyResponse) {
      response.header('Link', ['</a>; rel="next"', '</b>; rel="prev"']);
      return this.effect({ ok: true });
    }

    @Post('filter')
    @UseFilters(TeapotFilter)
    @idempotent({ storeErrors: (status) => status === 418 })
    async filter(): Promise<void> {
      await this.effect(undefined);
      throw new BadRequestException('short and stout');
    }

    @Post('stored-error')
    @idempotent({ storeErrors: (status) => status === 402 })
    async storedError(): Promise<void> {
      await this.effect(undefined);
      throw new HttpException({ reason: 'no money' }, 402);
    }

    @Post('envelope')
    @UseInterceptors(Envelope)
    envelope() {
      return this.effect({ items: ['a', 'b'] });
    }

    @Post('class-serializer')
    @UseInterceptors(ClassSerializerInterceptor)
    classSerializer() {
      return this.effect(new Secretive());
    }

    @Post('timeout')
    @UseInterceptors(Timeout)
    timeout() {
      return this.effect({ in: 'time' });
    }

    @Post('logging')
    @UseInterceptors(Logging)
    logging() {
      return this.effect({ was: 'logged' });
    }

    @Post('everything-around')
    @UseInterceptors(Logging, Timeout, Envelope, ClassSerializerInterceptor)
    everythingAround() {
      return this.effect({ items: ['a'] });
    }
  }

  return Kinds;
}

const decorateNothing: typeof Idempotent = () => () => undefined;

const KINDS: [path: string, status: number, effects: number, body: string | RegExp][] = [
  ['json', 201, 1, '"nested":{"list":[1,2.5,null]}}'],
  ['array', 201, 1, '[{"a":1}]'],
  ['void', 201, 1, /^$/],
  ['no-content', 204, 1, /^$/],
  ['string', 201, 1, 'plain text, not JSON'],
  ['number', 201, 1, '42'],
  ['null', 201, 1, /^(?:null)?$/],
  ['observable', 201, 1, '{"last":true}'],
  ['buffer', 201, 1, '\x00\x01\xff\xfe\n\r\x00'],
  ['stream-of-buffer', 201, 1, '\x00\xff\x01\xfe'],
  ['stream-of-file', 201, 1, /^[^]{200000}$/],
  ['stream-in-pieces', 202, 1, 'one two three'],
  ['res', 202, 1, '{"by":"hand"}'],
  ['res-later', 409, 1, '{"state":"the handler said so itself"}'],
  ['passthrough', 203, 1, '{"ok":true}'],
  ['passthrough-conflict', 409, 1, '{"state":"taken"}'],
  ['redirect', 303, 1, /elsewhere|^$/],
  ['redirect-computed', 307, 1, /computed|^$/],
  ['headers', 201, 1, '{"ok":true}'],
  ['repeated-headers', 201, 1, '{"ok":true}'],
  ['filter', 418, 0, '{"teapot":"short and stout"}'],
  ['stored-error', 402, 0, '{"reason":"no money"}'],
  ['envelope', 201, 1, '{"data":["a","b"],"count":2}'],
  ['class-serializer', 201, 1, '{"id":7}'],
  ['timeout', 201, 1, '{"in":"time"}'],
  ['logging', 201, 1, '{"was":"logged"}'],
  ['everything-around', 201, 1, '{"data":["a"],"count":1}'],
];

describe.each(ADAPTERS)('every kind of response, on %s', (adapter) => {
  let test: TestApp;
  let folder: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'idempotency-'));
    file = join(folder, 'a.bin');
    await writeFile(file, Buffer.from(Array.from({ length: 200_000 }, (_, index) => (index * 31) % 256)));
    test = await createTestApp({
      adapter,
      controllers: [kindsController('', Idempotent), kindsController('plain', decorateNothing)],
    });
  });

  afterAll(async () => {
    await test.close();
    await rm(folder, { recursive: true });
  });

  it.each(KINDS)('replays %s byte for byte, header for header', async (path, status, effects, body) => {
    const before = (await test.effects()).length;
    const first = await test.post(`/${path}`, `key-${path}`);
    expect(first.status).toBe(status);
    expect(first.body.toString('latin1')).toMatch(body);
    expect(first.headerLines).toContain(`Idempotency-Key: key-${path}`);
    expect(first.headerLines).not.toContain('Idempotency-Replayed: true');
    const logged = test.logs.length;

    for (let attempt = 0; attempt < 2; attempt++) {
      const replay = await test.post(`/${path}`, `key-${path}`);
      expect(replay.statusLine).toBe(first.statusLine);
      expect(replay.body.equals(first.body)).toBe(true);
      expect(replay.headerLines).toContain('Idempotency-Replayed: true');
      expect(withoutVolatile(replay.headerLines).filter((line) => line !== 'Idempotency-Replayed: true')).toEqual(
        withoutVolatile(first.headerLines),
      );
    }
    expect(test.logs.slice(logged)).toEqual([]);
    expect((await test.effects()).length - before).toBe(effects);
  });

  it.each(KINDS)('answers %s as it would without the library, but for the key and a length', async (path) => {
    const guarded = await test.post(`/${path}`, `compared-${path}`);
    const plain = await test.post(`/plain/${path}`, 'ignored');

    expect(guarded.statusLine).toBe(plain.statusLine);
    expect(guarded.body.equals(plain.body)).toBe(true);
    expect(comparable(guarded.headerLines)).toEqual(comparable(plain.headerLines));
  });
});

/** A body that was held is sent with its length where it would have been sent in chunks. */
function comparable(headerLines: string[]): string[] {
  return withoutVolatile(headerLines)
    .filter((line) => !/^(?:idempotency-key|content-length|transfer-encoding):/i.test(line))
    .toSorted();
}
