import { AssertionError } from 'node:assert';
import { randomUUID } from 'node:crypto';
import { Body, ConflictException, Controller, Post, Res } from '@nestjs/common';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { ServerResponse } from 'node:http';
import request from 'supertest';
import { Idempotent, IdempotencyContext } from '../../../src/index.js';
import {
  expectOneOfStorm,
  expectReplay,
  expectReplayAfterLostResponse,
  expectRetryAfterFailedCommit,
  type Operation,
} from '../../../src/testing/index.js';
import { createTestApp, type TestApp } from '../../support/test-app.js';
import { addEffects } from './effects.js';

let effects = 0;

/** Each wrong in a way of its own. */
@Controller()
class ShopController {
  @Post('good')
  @Idempotent({ inFlight: { waitMs: 10_000 } })
  async good(@IdempotencyContext() { manager }: IdempotencyContext): Promise<object> {
    await addEffects(manager, 'good');
    return { id: randomUUID() };
  }

  @Post('leased')
  @Idempotent({ mode: 'lease' })
  async leased(@IdempotencyContext() ctx: IdempotencyContext): Promise<object> {
    const id = await ctx.step('choose', () => randomUUID());
    await ctx.transaction('write', (manager) => addEffects(manager, 'leased'));
    return { id };
  }

  @Post('undecorated')
  undecorated(): object {
    effects++;
    return { id: randomUUID() };
  }

  @Post('apart')
  @Idempotent()
  apart(): object {
    effects++; // not in the transaction
    return { id: randomUUID() };
  }

  @Post('twice')
  @Idempotent()
  async twice(@IdempotencyContext() { manager }: IdempotencyContext): Promise<object> {
    await addEffects(manager, 'one', 'two');
    return {};
  }

  @Post('failing')
  @Idempotent()
  failing(): never {
    throw new ConflictException('sold out');
  }

  @Post('changing')
  @Idempotent()
  changing(@Res({ passthrough: true }) response: ServerResponse, @Body() body: object): object {
    effects++;
    response.setHeader('Set-Cookie', `session=${randomUUID()}`);
    return body;
  }
}

describe('the expectations of nestjs-idempotency/testing', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter: 'express', controllers: [ShopController], instances: 1 });
  });

  afterAll(() => test.close());

  const countRows = async (): Promise<number> => (await test.effects()).length;
  const operation = (path: string, more: Partial<Operation> = {}): Operation => {
    const key = randomUUID();
    return {
      send: () => request(test.app.getHttpServer()).post(`/${path}`).set('Idempotency-Key', key).send({}),
      countEffects: () => effects,
      ...more,
    };
  };

  const failing = async (work: Promise<unknown>): Promise<AssertionError> => {
    const error = await work.then(
      () => new Error('nothing was found'),
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(AssertionError);
    return error as AssertionError;
  };

  it.each([expectReplay, expectOneOfStorm, expectReplayAfterLostResponse, expectRetryAfterFailedCommit])(
    'hold for a route that is right: %p',
    async (expectation) => {
      const { status, body } = await expectation(operation('good', { countEffects: countRows }));
      expect(status).toBe(201);
      expect(JSON.parse(body.toString())).toEqual({ id: expect.any(String) });
    },
  );

  it.each([expectReplay, expectReplayAfterLostResponse])('hold in lease mode: %p', async (expectation) => {
    expect((await expectation(operation('leased', { countEffects: countRows }))).status).toBe(201);
  });

  it('in lease mode a retry after a failure goes on from the steps that have committed', async () => {
    const error = await failing(expectRetryAfterFailedCommit(operation('leased', { countEffects: countRows })));
    expect(error.message).toBe(
      'The request that failed before COMMIT must have 0 effects, but countEffects() tells of 1.',
    );
  });

  it('find a route that is not idempotent', async () => {
    const first = await failing(expectReplay(operation('undecorated')));
    expect(first.message).toMatch(
      /^The second request was not answered by a replay \(no Idempotency-Replayed header\): the route must be @Idempotent\(\)/,
    );
    const storm = await failing(expectOneOfStorm(operation('undecorated', {})));
    expect(storm.message).toBe('Of 20 requests with one key one must be carried out, but 20 were.');
    expect(storm.actual).toHaveLength(20);
    for (const expectation of [expectReplayAfterLostResponse, expectRetryAfterFailedCommit]) {
      const { message } = await failing(expectation(operation('undecorated')));
      expect(message).toMatch(/^No request got as far as its end (before|after) COMMIT\..* The client got: 201 /);
    }
  });

  it('find effects that are not of the transaction', async () => {
    const { message, actual, expected } = await failing(expectRetryAfterFailedCommit(operation('apart')));
    expect(message).toBe('The request that failed before COMMIT must have 0 effects, but countEffects() tells of 1.');
    expect({ actual, expected }).toEqual({ actual: 1, expected: 0 });
  });

  it('find more than one effect', async () => {
    const { message } = await failing(expectReplay(operation('twice', { countEffects: countRows })));
    expect(message).toBe('The first request must have 1 effect, but countEffects() tells of 2.');
  });

  it('find a handler that fails', async () => {
    const { message } = await failing(expectReplay(operation('failing')));
    expect(message).toMatch(/^The first request failed: 409 .*sold out/);
  });

  it('find a key that was used before, and one that another request used', async () => {
    const used = operation('good', { countEffects: countRows });
    await expectReplay(used);
    expect((await failing(expectReplay(used))).message).toMatch(/take a new key for each test/);

    let sent = 0;
    const key = randomUUID();
    const send = () =>
      request(test.app.getHttpServer()).post('/good').set('Idempotency-Key', key).send({ sent: sent++ });
    const { message } = await failing(expectReplay({ send, countEffects: countRows }));
    expect(message).toMatch(/it was taken for another request: `send` must repeat method, path, query and body/);
  });

  it('compare the headers that are named, too', async () => {
    const { message } = await failing(expectReplay(operation('changing', { headers: ['Set-Cookie'] })));
    expect(message).toMatch(
      /^The second request was answered by another header Set-Cookie than the first: undefined in place of/,
    );
  });

  it('say what to do where nothing listens', async () => {
    const send = () => Promise.reject(Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' }));
    const { message } = await failing(expectOneOfStorm({ send, countEffects: () => 0 }));
    expect(message).toMatch(
      /^A request of the storm got no answer: Error: connect ECONNREFUSED\. With supertest call `await app\.listen\(0\)` before/,
    );
    await expect(expectOneOfStorm({ send, countEffects: () => 0, requests: 1 })).rejects.toThrow(
      '`requests` must be a whole number from 2 to 1000, not 1.',
    );
  });
});
