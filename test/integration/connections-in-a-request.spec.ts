import { randomUUID } from 'node:crypto';
import { Controller, Post } from '@nestjs/common';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { Pool, PoolClient } from 'pg';
import { DataSource } from 'typeorm';
import { POOL_WAIT_MS } from '../../src/protocol/constants.js';
import { IdempotencyRuntime } from '../../src/idempotency.runtime.js';
import { Idempotent, IdempotencyService } from '../../src/index.js';
import { runningLeasedClaim } from '../../src/modes/lease/leased-claim.js';
import { Effect } from '../support/effect.entity.js';
import { json } from '../support/response.js';
import { script, ScriptedController } from '../support/scripted-routes.js';
import { createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

@Controller()
class PatientController {
  constructor(
    private readonly dataSource: DataSource,
    private readonly idempotency: IdempotencyService,
  ) {}

  @Post('patient')
  @Idempotent()
  count(): Promise<number> {
    return this.idempotency.outsideTransaction(() => this.dataSource.getRepository(Effect).count());
  }
}

describe('connections that are opened in a request', () => {
  const POOL_SIZE = 8;
  let test: TestApp;
  let pool: Pool;

  beforeAll(async () => {
    test = await createTestApp({
      adapter: 'express',
      controllers: [ScriptedController, PatientController],
      instances: 1,
      poolSize: POOL_SIZE,
    });
    pool = (test.dataSource.driver as unknown as { master: Pool }).master;
  });

  afterAll(() => test.close());

  it('carry none of it: what they notify of belongs to nobody', async () => {
    const runtime = test.app.get(IdempotencyRuntime);
    const service = test.app.get(IdempotencyService);
    const heard: unknown[] = [];
    const listening: Promise<unknown>[] = [];
    const opened = pool.totalCount;
    pool.on('connect', (client: PoolClient) => {
      client.on('notification', () => {
        const { transactions } = runtime;
        heard.push([transactions.transaction(), transactions.isOutside, runningLeasedClaim()]);
      });
      listening.push(client.query('listen news'));
    });
    /** Takes so many connections at once. */
    const take = async (count: number): Promise<void> => {
      const runners = Array.from({ length: count }, () => test.dataSource.createQueryRunner());
      await Promise.all(runners.map((runner) => runner.connect()));
      await Promise.all(runners.map((runner) => runner.release()));
    };
    const inLease = script(() => 'in a step');
    await test.post(`/transaction/${script(() => service.outsideTransaction(() => take(opened + 1)))}`, randomUUID());
    await test.post(`/step/${script(() => service.outsideTransaction(() => take(POOL_SIZE - 2)))}`, randomUUID());
    await test.post(`/step/${inLease}`, randomUUID());
    expect(listening.length).toBeGreaterThan(2);
    await Promise.all(listening);
    await test.dataSource.query('notify news');
    await waitFor(() => heard.length === listening.length, { what: 'each connection to be told' });
    expect(heard).toEqual(listening.map(() => [undefined, false, undefined]));
  });

  it('are not waited for without bound outside of a transaction that keeps one', async () => {
    const runners = Array.from({ length: POOL_SIZE - 1 }, () => test.dataSource.createQueryRunner());
    await Promise.all(runners.map((runner) => runner.connect()));
    const begun = performance.now();
    const answer = await test.post('/patient', randomUUID());
    const waitedMs = performance.now() - begun;
    expect(answer.status).toBe(503);
    expect(json(answer)).toMatchObject({
      detail: expect.stringContaining('IdempotencyService.outsideTransaction()'),
    });
    expect(waitedMs).toBeGreaterThanOrEqual(POOL_WAIT_MS - 100);
    await Promise.all(runners.map((runner) => runner.release()));
    await waitFor(() => pool.idleCount === pool.totalCount && pool.waitingCount === 0, {
      what: 'the one that came too late to be back',
    });
    expect(await test.effects()).toEqual([]);
  });
});
