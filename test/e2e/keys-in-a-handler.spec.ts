import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { BadRequestException, Body, Controller, Post } from '@nestjs/common';
import { type IdempotencyMode, IdempotencyContext, IdempotencyService, Idempotent } from '../../src/index.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { queryOn } from '../support/empty-database.js';

const MODES = ['transaction', 'lease'] as const;
const SCOPE = 'ann';

function keysControllers(mode: IdempotencyMode) {
  @Controller(mode)
  class Keys {
    constructor(readonly service: IdempotencyService) {}

    @Post('plain')
    @Idempotent({ mode })
    plain() {
      return { done: true };
    }

    @Post('find')
    @Idempotent({ mode, isolation: 'REPEATABLE READ' })
    async find(@Body() { other }: { other: string }, @IdempotencyContext() ctx: IdempotencyContext) {
      await ctx.manager.query('select 1'); // the snapshot of the transaction is of now
      const before = await ctx.find(other);
      await this.service.forget(other, SCOPE);
      return { before: before?.state, after: (await ctx.find(other)) ?? null, by: await this.service.find(other) };
    }

    @Post('forget')
    @Idempotent({ mode })
    async forget(@Body() { other }: { other: string }, @IdempotencyContext() ctx: IdempotencyContext) {
      throw new BadRequestException({ forgotten: await ctx.forget(other), again: await ctx.forget(other) });
    }

    @Post('resolve')
    @Idempotent({ mode })
    async resolve(@Body() { other }: { other: string }) {
      throw new BadRequestException({
        released: await this.service.release(`${other} 1`, SCOPE),
        resolved: await this.service.resolve(`${other} 2`, { status: 202 }, SCOPE),
      });
    }
  }
  return Keys;
}

describe.each(ADAPTERS)('keys that a handler asks for, on %s', (adapter) => {
  let app: TestApp;

  beforeAll(async () => {
    app = await createTestApp({
      adapter,
      controllers: MODES.map(keysControllers),
      idempotency: { scope: () => SCOPE },
    });
  });
  afterAll(() => app.close());

  const json = async (path: string, key: string, body: object): Promise<unknown> =>
    JSON.parse((await app.post(path, key, body)).body.toString());

  /** An operation of lease mode whose process has died, and which waits for an operator. */
  const interrupted = (key: string) =>
    queryOn(
      app.databaseUrl,
      `insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id, created_at, expires_at,
         execution_id, attempt, lease_expires_at)
       values ($1, $2, decode(repeat('00', 32), 'hex'), 1, 'POST', '/', gen_random_uuid(), now() - interval '2 h', 'infinity',
         gen_random_uuid(), 1, now() - interval '1 h')`,
      [SCOPE, key],
    );

  it.each(MODES)('are those of its scope, as they are now and not in its transaction, in %s mode', async (mode) => {
    const other = `other of ${mode}`;
    await app.post(`/${mode}/plain`, other);
    expect(await json(`/${mode}/find`, `find in ${mode}`, { other })).toEqual({ before: 'completed', after: null });
  });

  it.each(MODES)('are forgotten although the handler fails, in %s mode', async (mode) => {
    const other = `forgotten in ${mode}`;
    await app.post(`/${mode}/plain`, other);
    expect(await json(`/${mode}/forget`, `forget in ${mode}`, { other })).toEqual({ forgotten: true, again: false });
    expect(await app.app.get(IdempotencyService).find(other, SCOPE)).toBeUndefined();
  });

  it.each(MODES)('are released and resolved although the handler fails, in %s mode', async (mode) => {
    const other = `interrupted in ${mode}`;
    await interrupted(`${other} 1`);
    await interrupted(`${other} 2`);
    expect(await json(`/${mode}/resolve`, `resolve in ${mode}`, { other })).toEqual({ released: true, resolved: true });
    const service = app.app.get(IdempotencyService);
    expect(await service.find(`${other} 1`, SCOPE)).toMatchObject({ state: 'released' });
    expect(await service.find(`${other} 2`, SCOPE)).toMatchObject({ state: 'completed', status: 202 });
  });
});

describe('keys that a handler asks for while all connections are in use', () => {
  it('are refused after a bounded wait, rather than waited for without end', async () => {
    const app = await createTestApp({
      adapter: 'express',
      instances: 1,
      poolSize: 1,
      controllers: [keysControllers('transaction')],
      idempotency: { scope: () => SCOPE },
    });
    try {
      const answer = await app.post('/transaction/forget', 'alone', { other: 'x' });
      expect(answer.status).toBe(503);
      expect(answer.body.toString()).toContain('All database connections are in use.');
    } finally {
      await app.close();
    }
  });
});
