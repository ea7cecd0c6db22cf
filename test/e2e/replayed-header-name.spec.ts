import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Controller, Post } from '@nestjs/common';
import { Idempotent } from '../../src/index.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

@Controller()
class Marked {
  @Post('transaction')
  @Idempotent()
  transaction() {}

  @Post('lease')
  @Idempotent({ mode: 'lease' })
  lease() {}

  @Post('own')
  @Idempotent({ replayedHeader: 'X-Replayed' })
  own() {}
}

describe.each(ADAPTERS)('the header that marks a replay, on %s', (adapter) => {
  let app: TestApp;

  beforeAll(async () => {
    app = await createTestApp({
      adapter,
      controllers: [Marked],
      idempotency: { replayedHeader: 'Idempotent-Replayed' },
      configure: (application) => application.enableCors({ exposedHeaders: ['Idempotent-Replayed'] }),
    });
  });
  afterAll(() => app.close());

  it.each([
    ['transaction', 'Idempotent-Replayed: true'],
    ['lease', 'Idempotent-Replayed: true'],
    ['own', 'X-Replayed: true'],
  ])('has the name that the options give it: %s', async (path, line) => {
    const marks = (lines: string[]): string[] => lines.filter((each) => /^\S*replayed:/i.test(each));
    expect(marks((await app.post(`/${path}`, path)).headerLines)).toEqual([]);
    const replay = await app.post(`/${path}`, path, {}, [['Origin', 'https://shop.example']]);
    expect(marks(replay.headerLines)).toEqual([line]);
    expect(replay.headerLines.map((each) => each.toLowerCase())).toContain(
      'access-control-expose-headers: idempotent-replayed',
    );
  });
});
