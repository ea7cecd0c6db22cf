import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import {
  type CallHandler,
  Controller,
  type ExecutionContext,
  type NestInterceptor,
  Post,
  UseInterceptors,
} from '@nestjs/common';
import { tap } from 'rxjs';
import { type IdempotencyMode, Idempotent } from '../../src/index.js';
import type { RawResponse } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

const MODES = ['transaction', 'lease'] as const;
let requests = 0;

/** Headers that differ from one request to the next: set on the way in, and on the way out. */
class Marks implements NestInterceptor {
  intercept(context: ExecutionContext, next: CallHandler) {
    const number = ++requests;
    const response = context.switchToHttp().getResponse<{ header(name: string, value: string): unknown }>();
    response.header('X-On-The-Way-In', String(number));
    return next.handle().pipe(
      tap(() => {
        response.header('X-On-The-Way-Out', String(number));
        response.header('X-Trace', String(number));
        response.header('Server-Timing', `total;dur=${number}`);
      }),
    );
  }
}

function controllers(mode: IdempotencyMode) {
  @Controller(mode)
  class Marked {
    @Post()
    @UseInterceptors(Marks)
    @Idempotent({ mode, replayHeaders: { drop: ['X-Trace'] } })
    create() {
      return { created: true };
    }
  }
  return Marked;
}

describe.each(ADAPTERS)('headers that an outer interceptor sets, on %s', (adapter) => {
  let app: TestApp;

  beforeAll(async () => {
    app = await createTestApp({ adapter, controllers: MODES.map(controllers) });
  });
  afterAll(() => app.close());

  const lines = ({ headerLines }: RawResponse, name: string): string[] =>
    headerLines
      .filter((line) => line.toLowerCase().startsWith(`${name.toLowerCase()}: `))
      .map((line) => line.slice(name.length + 2));

  it.each(MODES)(
    'are of the request on the way in, and as recorded on the way out unless dropped, in %s mode',
    async (mode) => {
      const first = await app.post(`/${mode}`, `marked ${mode}`);
      const of = String(requests);
      expect(lines(first, 'X-On-The-Way-In')).toEqual([of]);
      expect(lines(first, 'X-On-The-Way-Out')).toEqual([of]);
      expect(lines(first, 'X-Trace')).toEqual([of]);
      expect(lines(first, 'Server-Timing')).toEqual([`total;dur=${of}`]);

      const replay = await app.post(`/${mode}`, `marked ${mode}`);
      expect(lines(replay, 'X-On-The-Way-In')).toEqual([String(requests)]);
      expect(lines(replay, 'X-On-The-Way-Out')).toEqual([of]);
      expect(lines(replay, 'X-Trace')).toEqual([]);
      expect(lines(replay, 'Server-Timing')).toEqual([]);
    },
  );
});
