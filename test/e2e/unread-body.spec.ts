import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Body, Controller, Post } from '@nestjs/common';
import { Idempotent } from '../../src/index.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

@Controller()
class Things {
  @Post('things')
  @Idempotent()
  create(@Body() body: unknown) {
    return { body };
  }

  @Post('plain')
  createPlain(@Body() body: unknown) {
    return { body };
  }
}

describe.each(ADAPTERS)('a body that nothing has read, on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [Things] });
  });

  afterAll(() => test.close());

  it('is refused, not taken for an empty one: no client can provoke a 500 by its media type', async () => {
    const send = (path: string) =>
      test.request({
        method: 'POST',
        path,
        headers: [
          ['Content-Type', 'foo/bar'],
          ['Idempotency-Key', 'k'],
        ],
        body: 'whatever',
      });
    await send('/plain');
    const loggedOfPlain = test.logs.splice(0).map(firstLine); // Fastify's own refusal, which NestJS 10 and 11 log
    expect((await send('/things')).status).toBe(415);
    expect(test.logs.map(firstLine)).toEqual(loggedOfPlain);

    const afterwards = await test.post('/things', 'k', { a: 1 });
    expect(afterwards.body.toString()).toBe('{"body":{"a":1}}');
  });
});

function firstLine(text: string): string {
  return text.split('\n', 1)[0]!;
}
