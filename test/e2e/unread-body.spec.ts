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
}

describe.each(ADAPTERS)('a body that nothing has read, on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [Things] });
  });

  afterAll(() => test.close());

  it('is refused, not taken for an empty one: no client can provoke a 500 by its media type', async () => {
    const refused = await test.request({
      method: 'POST',
      path: '/things',
      headers: [
        ['Content-Type', 'foo/bar'],
        ['Idempotency-Key', 'k'],
      ],
      body: 'whatever',
    });
    expect(refused.status).toBe(415);
    expect(test.logs).toEqual([]);

    const afterwards = await test.post('/things', 'k', { a: 1 });
    expect(afterwards.body.toString()).toBe('{"body":{"a":1}}');
  });
});
