import type { IncomingMessage, ServerResponse } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Controller, Post, Query, Req, Res } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { ExpressAdapter } from '@nestjs/platform-express';
import type { Repository } from 'typeorm';
import { Idempotent } from '../../src/index.js';
import { Effect } from '../support/effect.entity.js';
import { createTestApp, type TestApp } from '../support/test-app.js';

type ExpressResponse = ServerResponse & { json(body: unknown): void };
type Application = (request: IncomingMessage, response: ServerResponse) => void;

/** Gives each response that it handles the prototype of its own responses, as Express applications do. */
function applicationWithin(answer: (response: ExpressResponse) => void): Application {
  const application = new ExpressAdapter().getInstance();
  application.use((_request: unknown, response: ExpressResponse) => answer(response));
  return application;
}

@Controller()
class Routes {
  private readonly answering = applicationWithin((response) => {
    response.statusCode = 202;
    response.setHeader('X-Inner', 'yes');
    response.json({ at: process.hrtime.bigint().toString() });
  });

  private readonly beginning = applicationWithin((response) => {
    response.flushHeaders();
    response.write('one');
  });

  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  @Post('inner')
  @Idempotent()
  async answer(@Req() request: IncomingMessage, @Res() response: ServerResponse, @Query('fail') fail?: string) {
    await this.effects.insert({ label: `inner ${fail ?? ''}` });
    this.answering(request, response);
    if (fail !== undefined) {
      throw new Error(fail);
    }
  }

  @Post('begun')
  @Idempotent()
  async begin(@Req() request: IncomingMessage, @Res() response: ServerResponse) {
    this.beginning(request, response);
    await this.effects.insert({ label: 'begun' });
    throw new Error('after the first bytes');
  }

  @Post('plain')
  @Idempotent()
  plain(@Res({ passthrough: true }) response: ServerResponse) {
    response.setHeader('X-Inner', 'yes');
    return { at: process.hrtime.bigint().toString() };
  }
}

describe('a response of Express', () => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({
      adapter: 'express',
      controllers: [Routes],
      configure: (app) => {
        app.use((_request: unknown, response: ServerResponse, next: () => void) => {
          const { setHeader } = response;
          response.setHeader = (name, value) => setHeader.call(response, name, name === 'X-Inner' ? 'changed' : value);
          next();
        });
      },
    });
  });

  afterAll(() => test.close());

  it('that an application of its own answers is held and replayed like any other', async () => {
    const first = await test.post('/inner', 'k');
    const replay = await test.post('/inner', 'k');
    expect(first.status).toBe(202);
    expect(replay.status).toBe(202);
    expect(replay.body).toEqual(first.body);
    for (const { headerLines } of [first, replay]) {
      expect(headerLines).toContain('X-Inner: changed');
    }
    expect(replay.headerLines).toContain('Idempotency-Replayed: true');
  });

  it.each(['/inner?fail=late', '/begun'])('that was given another prototype sends nothing of %s', async (path) => {
    const response = await test.post(path, `key of ${path}`);
    expect(response.status).toBe(500);
    expect(response.body.toString()).not.toMatch(/"at"|one/);
    expect(await test.effects()).toEqual(['inner ']);
  });

  it('whose setHeader() middleware has replaced calls that one, first and in the replay the result', async () => {
    const first = await test.post('/plain', 'plain');
    const replay = await test.post('/plain', 'plain');
    expect(first.headerLines).toContain('X-Inner: changed');
    expect(replay.headerLines).toContain('X-Inner: changed');
  });
});
