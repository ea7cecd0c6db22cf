import { describe, expect, it } from '@jest/globals';
import { Body, Controller, Inject, Injectable, Post, Scope } from '@nestjs/common';
import { ContextIdFactory, ModuleRef, REQUEST } from '@nestjs/core';
import { IdempotencyModule, Idempotent } from '../../../src/index.js';
import { boot, Effects, REPLAYED, withADatabaseEach } from './house.js';

withADatabaseEach();

describe('request-scoped providers', () => {
  @Injectable({ scope: Scope.REQUEST })
  class PerRequest {
    constructor(
      @Inject(REQUEST) private readonly request: { headers: Record<string, string> },
      private readonly effects: Effects,
    ) {}

    add() {
      return this.effects.add(`for ${this.request.headers['idempotency-key']}`);
    }
  }

  @Injectable({ scope: Scope.REQUEST, durable: true })
  class PerTenant {
    constructor(private readonly effects: Effects) {}

    add() {
      return this.effects.add('durable');
    }
  }

  @Controller({ path: 'scoped', scope: Scope.REQUEST })
  class PerRequestController {
    static made = 0;

    constructor(
      private readonly perRequest: PerRequest,
      private readonly perTenant: PerTenant,
      private readonly moduleRef: ModuleRef,
      @Inject(REQUEST) private readonly request: object,
    ) {
      PerRequestController.made++;
    }

    @Post()
    @Idempotent()
    async create(@Body() { fail = false }: { fail?: boolean }) {
      const added = await this.perRequest.add();
      await this.perTenant.add();
      const contextId = ContextIdFactory.getByRequest(this.request);
      await (await this.moduleRef.resolve(PerRequest, contextId, { strict: false })).add();
      if (fail) throw new Error('the handler failed');
      return added;
    }
  }

  it('work in the transaction of their request', async () => {
    const test = await boot(IdempotencyModule.forRoot(), {
      controllers: [PerRequestController],
      providers: [PerRequest, PerTenant],
    });
    expect((await test.post('/scoped', 'failed', { fail: true })).status).toBe(500);
    expect(await test.effects()).toEqual([]);

    const first = await test.post('/scoped', 'abc');
    const second = await test.post('/scoped', 'abc');
    expect(first.body.toString()).toBe('{"label":"for abc"}');
    expect(second.body.equals(first.body)).toBe(true);
    expect(second.headerLines).toContain(REPLAYED);
    expect(await test.effects()).toEqual(['for abc', 'durable', 'for abc']);
    expect(PerRequestController.made).toBe(3);
  });
});
