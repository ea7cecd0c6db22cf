import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
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
  type Type,
  UseFilters,
  UseInterceptors,
} from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { InjectRepository } from '@nestjs/typeorm';
import { Exclude } from 'class-transformer';
import { map, type Observable, of, tap, timeout } from 'rxjs';
import type { Repository } from 'typeorm';
import { Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';

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

/**
 * The same handlers, with the library and without.
 *
 * @param file one to be streamed, of 200,000 bytes
 */
export function kindsController(prefix: string, idempotent: typeof Idempotent, file: string): Type {
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
