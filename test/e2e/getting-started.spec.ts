import { Body, Controller, Post } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Repository } from 'typeorm';
import { Idempotent } from '../../src/index.js';
import { blocksOf } from '../docs/pages.js';
import { Effect } from '../support/effect.entity.js';
import type { RawResponse } from '../support/raw-http.js';
import { json, replayOf } from '../support/response.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

@Controller('payments')
class PaymentsController {
  constructor(@InjectRepository(Effect) private readonly payments: Repository<Effect>) {}

  @Post()
  @Idempotent()
  create(@Body() { amount }: { amount: number }) {
    return this.payments.save({ label: String(amount) });
  }
}

/** The curl lines of the page, each as path, key and body. */
const LINES = blocksOf('docs/getting-started.md')
  .flatMap(({ code }) => code.split('\n'))
  .map((line) => /^curl -i \$api(\S+) -H '.*' -H 'Idempotency-Key: (.*)' -d '(.*)'$/.exec(line)?.slice(1))
  .filter((found) => found !== undefined) as [path: string, key: string, body: string][];

describe.each(ADAPTERS)('what docs/getting-started.md has a newcomer paste, on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [PaymentsController], idempotency: { required: false } });
  });

  afterAll(() => test.close());

  it('pays once, replays, and refuses another payment under the same key', async () => {
    const answers: RawResponse[] = [];
    for (const [path, key, body] of LINES) {
      answers.push(await test.post(path, key, JSON.parse(body)));
    }
    const [first, retry, other] = answers;
    expect(answers.map(({ status }) => status)).toEqual([201, 201, 422]);
    expect(retry).toEqual(replayOf(first!));
    expect(json(other!)).toMatchObject({ type: 'urn:nestjs-idempotency:key-reused' });
    expect(await test.effects()).toEqual(['1000']);
  });
});
