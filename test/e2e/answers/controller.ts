import type { ServerResponse } from 'node:http';
import { PassThrough, Readable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import {
  type ArgumentsHost,
  Body,
  type CallHandler,
  Catch,
  ConflictException,
  Controller,
  type ExceptionFilter,
  type ExecutionContext,
  HttpCode,
  HttpException,
  Injectable,
  mixin,
  type NestInterceptor,
  Post,
  Res,
  type Type,
  UseFilters,
  UseInterceptors,
} from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { catchError, map, mergeMap, type Observable, of, toArray } from 'rxjs';
import type { Repository } from 'typeorm';
import { Idempotent } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';

/** Express' response, or Fastify's reply. */
interface AnyResponse {
  status(code: number): AnyResponse;
  header(name: string, value: string): AnyResponse;
  send(body?: unknown): AnyResponse;
  hijack?(): void;
  raw?: ServerResponse;
}

export const rawOf = (response: AnyResponse): ServerResponse => response.raw ?? (response as unknown as ServerResponse);

interface Labelled {
  label: string;
}

/** An interceptor that does this with what the handler answers. */
function outer(around: (handled: Observable<unknown>, context: ExecutionContext) => Observable<unknown>): Type {
  @Injectable()
  class Outer implements NestInterceptor {
    intercept(context: ExecutionContext, next: CallHandler): Observable<unknown> {
      return around(next.handle(), context);
    }
  }
  return mixin(Outer);
}

const refuses = outer((handled) =>
  handled.pipe(
    map(() => {
      throw new ConflictException('further out');
    }),
  ),
);

/** Makes a success of every error. */
@Catch()
class ForgivingFilter implements ExceptionFilter {
  catch(exception: HttpException, host: ArgumentsHost): void {
    host.switchToHttp().getResponse<AnyResponse>().status(200).send({ forgiven: exception.message });
  }
}

/** Answers when the event loop has turned. */
@Catch()
class SlowFilter implements ExceptionFilter {
  async catch(exception: HttpException, host: ArgumentsHost): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    host.switchToHttp().getResponse<AnyResponse>().status(exception.getStatus()).send({ slow: exception.message });
  }
}

/** Who writes the head of a response decides what becomes of it. */
@Controller('writer')
export class WriterController {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  /** An error with the very status that the handler would have answered with. */
  @Post('same-status')
  @Idempotent()
  @HttpCode(409)
  @UseInterceptors(refuses)
  sameStatus(@Body() { label }: Labelled) {
    return this.write(label);
  }

  @Post('same-status-set')
  @Idempotent()
  @UseInterceptors(refuses)
  sameStatusSet(@Body() { label }: Labelled, @Res({ passthrough: true }) response: AnyResponse) {
    response.status(409);
    return this.write(label);
  }

  @Post('same-status-slowly')
  @Idempotent()
  @HttpCode(409)
  @UseFilters(SlowFilter)
  @UseInterceptors(refuses)
  sameStatusSlowly(@Body() { label }: Labelled) {
    return this.write(label);
  }

  @Post('forgiven')
  @Idempotent()
  @HttpCode(200)
  @UseFilters(ForgivingFilter)
  @UseInterceptors(refuses)
  forgiven(@Body() { label }: Labelled) {
    return this.write(label);
  }

  /** The same status, but nobody has failed. */
  @Post('own-conflict')
  @Idempotent()
  @HttpCode(409)
  ownConflict(@Body() { label }: Labelled) {
    return this.write(label);
  }

  /** An error further out that somebody still further out makes an answer of. */
  @Post('caught-further-out')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(catchError(() => of({ caught: true })))), refuses)
  caughtFurtherOut(@Body() { label }: Labelled) {
    return this.write(label);
  }

  private async write(label: string): Promise<{ label: string }> {
    await this.effects.insert({ label });
    return { label };
  }
}

/** Handlers that wait for the end of their own response, and others that answer as the guides have it. */
@Controller('waits')
export class WaitingController {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  @Post('pipeline')
  @Idempotent()
  async pipeline(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.hijack?.();
    const raw = rawOf(response);
    raw.setHeader('Content-Type', 'text/plain');
    await pipeline(Readable.from(['one ', 'two ', label]), raw);
    await this.effects.insert({ label });
  }

  @Post('end-callback')
  @Idempotent()
  async endCallback(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.hijack?.();
    await new Promise<void>((resolve) => rawOf(response).end(label, () => resolve()));
    await this.effects.insert({ label });
  }

  @Post('finish-event')
  @Idempotent()
  async finishEvent(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.hijack?.();
    const raw = rawOf(response);
    let finishes = 0;
    raw.on('finish', () => finishes++);
    const ended = new Promise((resolve) => raw.once('finish', resolve));
    raw.end(label);
    await ended;
    await this.effects.insert({ label: `${label} ${finishes}` });
  }

  /** Registers when the response has ended already. */
  @Post('finished')
  @Idempotent()
  async finished(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    response.hijack?.();
    const raw = rawOf(response);
    const ended = finished(raw);
    raw.end(label);
    await ended;
    await this.effects.insert({ label });
  }

  /** Fastify's own form; in Express the response is what `send()` returns. */
  @Post('return-stream')
  @Idempotent()
  async returnStream(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    await this.effects.insert({ label });
    if (response.raw === undefined) {
      new PassThrough().end(label).pipe(rawOf(response));
      return undefined;
    }
    return response.header('content-type', 'text/plain').send(Readable.from([label]));
  }

  @Post('await-stream')
  @Idempotent()
  async awaitStream(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    await this.effects.insert({ label });
    if (response.raw === undefined) {
      await pipeline(Readable.from([label]), rawOf(response));
    } else {
      await response.header('content-type', 'text/plain').send(Readable.from([label]));
    }
  }

  @Post('await-json')
  @Idempotent()
  async awaitJson(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    await this.effects.insert({ label });
    await response.status(202).send({ label });
  }

  @Post('trailers')
  @Idempotent()
  async trailers(@Body() { label }: Labelled, @Res() response: AnyResponse) {
    await this.effects.insert({ label });
    response.hijack?.();
    const raw = rawOf(response);
    raw.setHeader('Trailer', 'X-Checksum');
    raw.write('one ');
    raw.addTrailers({ 'X-Checksum': 'abc' });
    raw.end(label);
  }

  /** Several values: outer interceptors see each of them. */
  @Post('several-values')
  @Idempotent()
  @UseInterceptors(outer((handled) => handled.pipe(toArray())))
  severalValues(@Body() { label }: Labelled): Observable<string> {
    return of(1, 2, 3).pipe(mergeMap(async (n) => `${label} ${n}`));
  }

  /** Keeps writing, detached, to a response that a replay has answered. */
  @Post('detached')
  @Idempotent()
  @UseInterceptors(
    outer((handled, context) =>
      handled.pipe(
        map((value) => {
          const raw = rawOf(context.switchToHttp().getResponse<AnyResponse>());
          const { end, write } = raw as unknown as {
            end?: (body?: string) => unknown;
            write: (body: string) => unknown;
          };
          if (
            raw.headersSent ||
            context.switchToHttp().getRequest<{ headers: object }>().headers.hasOwnProperty('x-detach')
          ) {
            write('late');
            end?.('late');
          }
          return value;
        }),
      ),
    ),
  )
  async detached(@Body() { label }: Labelled) {
    await this.effects.insert({ label });
    return { label };
  }
}
