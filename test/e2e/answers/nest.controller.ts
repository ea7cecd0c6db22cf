import { Readable } from 'node:stream';
import {
  type CallHandler,
  Controller,
  type ExecutionContext,
  Injectable,
  type NestInterceptor,
  UseInterceptors,
  Header,
  HttpCode,
  Post,
  Redirect,
  StreamableFile,
  type Type,
} from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { from, map, type Observable, of } from 'rxjs';
import type { Repository } from 'typeorm';
import type { Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';

const failing = (): Readable =>
  new Readable({
    read() {
      this.destroy(new Error('at once'));
    },
  });

/** The value says which status it has, as many an envelope does. */
@Injectable()
class StatusOfValue implements NestInterceptor {
  intercept(context: ExecutionContext, next: CallHandler<{ code: number }>): Observable<unknown> {
    return next.handle().pipe(
      map((value) => {
        context.switchToHttp().getResponse<{ status(code: number): void }>().status(value.code);
        return { ...value, enveloped: true };
      }),
    );
  }
}

/** Answers with another value than the handler's. */
@Injectable()
class OfTheWeb implements NestInterceptor {
  intercept(_: ExecutionContext, next: CallHandler): Observable<unknown> {
    return next.handle().pipe(map((value) => Response.json(value, { status: 422 })));
  }
}

/** What NestJS makes of a value that a handler returns, with the library and without. */
export function nestController(prefix: string, idempotent: typeof Idempotent): Type {
  @idempotent()
  @Controller(prefix)
  class NestAnswers {
    constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

    private async effect<T>(value: T): Promise<T> {
      await this.effects.insert({ label: prefix });
      return value;
    }

    @Post('web-response')
    webResponse() {
      return this.effect(new Response('of the web', { status: 203, headers: { 'X-Web': 'yes', ETag: '"w"' } }));
    }

    @Post('web-response-json')
    webResponseJson() {
      return this.effect(Response.json({ of: 'the web' }, { status: 409 }));
    }

    @Post('web-response-empty')
    webResponseEmpty() {
      return this.effect(new Response(null, { status: 204, headers: { 'X-Web': 'yes' } }));
    }

    @Post('web-response-redirect')
    webResponseRedirect() {
      return this.effect(Response.redirect('http://example.com/', 303));
    }

    @Post('web-stream')
    webStream() {
      return this.effect(new Blob(['of ', 'the web']).stream());
    }

    @Post('node-stream')
    nodeStream() {
      return this.effect(Readable.from(['of ', 'Node']));
    }

    @Post('async-iterable')
    asyncIterable() {
      return this.effect(
        (async function* () {
          yield 'of ';
          yield 'an iterable';
        })(),
      );
    }

    @Post('streamable')
    streamable() {
      return this.effect(
        new StreamableFile(Readable.from(['four']), { type: 'text/plain', disposition: 'inline', length: 4 }),
      );
    }

    @Post('streamable-failing')
    streamableFailing() {
      return this.effect(new StreamableFile(failing()));
    }

    @Post('streamable-failing-handled')
    streamableFailingHandled() {
      return this.effect(
        new StreamableFile(failing()).setErrorHandler((error, response) => {
          response.statusCode = 410;
          response.send(error.message);
        }),
      );
    }

    @Post('node-stream-failing')
    nodeStreamFailing() {
      return this.effect(failing());
    }

    @Post('status-of-value')
    @UseInterceptors(StatusOfValue)
    statusOfValue() {
      return this.effect({ code: 422 });
    }

    @Post('made-a-web-response')
    @UseInterceptors(OfTheWeb)
    madeAWebResponse() {
      return this.effect({ of: 'the web' });
    }

    @Post('observable-of-several')
    async observable() {
      await this.effect(undefined);
      return from(['one', 'two', 'three']);
    }

    @Post('observable-of-streamable')
    async observableOfStreamable() {
      await this.effect(undefined);
      return of(new StreamableFile(Buffer.from('bytes')));
    }

    @Post('headers')
    @HttpCode(203)
    @Header('Cache-Control', 'private')
    @Header('X-Computed', () => 'computed')
    headers() {
      return this.effect({ a: 1 });
    }

    @Post('redirect')
    @Redirect('/one', 301)
    redirect() {
      return this.effect({ url: '/two' });
    }

    @Post('undefined')
    async undefined() {
      await this.effect(undefined);
    }

    @Post('buffer')
    buffer() {
      return this.effect(Buffer.from('a buffer'));
    }

    @Post('bytes')
    bytes() {
      return this.effect(new Uint8Array([1, 2, 255]));
    }

    @Post('false')
    false() {
      return this.effect(false);
    }

    @Post('error')
    error() {
      return this.effect(new Error('returned'));
    }
  }
  return NestAnswers;
}
