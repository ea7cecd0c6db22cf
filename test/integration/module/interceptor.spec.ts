import { describe, expect, it } from '@jest/globals';
import {
  type CallHandler,
  Controller,
  type ExecutionContext,
  type NestInterceptor,
  Post,
  UploadedFile,
  UseInterceptors,
} from '@nestjs/common';
import { FileInterceptor } from '@nestjs/platform-express';
import { tap } from 'rxjs';
import { IdempotencyModule, Idempotent } from '../../../src/index.js';
import { rawRequest } from '../../support/raw-http.js';
import { boot, keyRows, logs, REPLAYED, type Running, withADatabaseEach } from './house.js';

withADatabaseEach();

describe('the interceptor', () => {
  const around = (name: string, seen: string[]): NestInterceptor => ({
    intercept: (_: ExecutionContext, next: CallHandler) => {
      seen.push(name);
      return next.handle().pipe(tap(() => seen.push(`${name} done`)));
    },
  });

  it('runs inside of all others, so that a replay leaves out nothing but the handler', async () => {
    const seen: string[] = [];

    @Controller('around')
    @UseInterceptors(around('class', seen))
    class Around {
      @Post()
      @Idempotent()
      @UseInterceptors(around('method', seen))
      handler() {
        seen.push('handler');
        return {};
      }
    }
    const test = await boot(IdempotencyModule.forRoot(), {
      controllers: [Around],
      configure: (app) => void app.useGlobalInterceptors(around('global', seen)),
    });
    const outside = ['global', 'class', 'method'];
    const done = ['method done', 'class done', 'global done'];

    await test.post('/around', 'abc');
    expect(seen.splice(0)).toEqual([...outside, 'handler', ...done]);
    await test.post('/around', 'abc');
    expect(seen).toEqual([...outside, ...done]);
  });

  const BOUNDARY = 'xyz';
  const upload = (test: Running, path: string, content: string) =>
    rawRequest(test.port, {
      method: 'POST',
      path,
      headers: [
        ['Idempotency-Key', 'abc'],
        ['Content-Type', `multipart/form-data; boundary=${BOUNDARY}`],
      ],
      body: `--${BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n${content}\r\n--${BOUNDARY}--\r\n`,
    });

  @Controller('uploads')
  class Uploads {
    @Post('below')
    @Idempotent()
    @UseInterceptors(FileInterceptor('file'))
    below(@UploadedFile() file: { size: number }) {
      return { size: file.size };
    }

    @Post('above')
    @UseInterceptors(FileInterceptor('file'))
    @Idempotent()
    above() {
      return {};
    }
  }

  it('finds an upload that an interceptor below has read, and compares its content', async () => {
    const test = await boot(IdempotencyModule.forRoot({ scope: () => '' }), { controllers: [Uploads] });
    expect((await upload(test, '/uploads/below', 'hello')).body.toString()).toBe('{"size":5}');
    expect((await upload(test, '/uploads/below', 'hello')).headerLines).toContain(REPLAYED);
    expect((await upload(test, '/uploads/below', 'hallo')).status).toBe(422);
    expect(logs).toEqual([]);
  });

  it('says which decorator to move when the upload is still unread', async () => {
    const test = await boot(IdempotencyModule.forRoot({ scope: () => '' }), { controllers: [Uploads] });
    expect((await upload(test, '/uploads/above', 'hello')).status).toBe(500);
    expect(logs).toEqual([expect.stringContaining('Move @UseInterceptors(FileInterceptor(...)) below @Idempotent()')]);
    expect(await keyRows()).toEqual([]);
  });
});
