import { Body, Controller, HttpException, Param, Post } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { afterAll, afterEach, beforeAll, expect, it } from '@jest/globals';
import type { Repository } from 'typeorm';
import { Idempotent, IdempotencyContext, IdempotencyService } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import { queryOn } from '../support/empty-database.js';
import type { RawResponse } from '../support/raw-http.js';
import { type Adapter, createTestApp, type TestApp } from '../support/test-app.js';

/** Enough for every partition, and for several rows in some. */
const KEYS = 16;

/** What a handler does beside its effect. */
let script: (context: IdempotencyContext) => unknown = () => undefined;

@Controller()
export class EffectsController {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  @Post('effects/:label')
  @Idempotent({ storeErrors: (status) => status === 402 })
  async effect(
    @Param('label') label: string,
    @Body() body: object,
    @IdempotencyContext() context: IdempotencyContext,
  ): Promise<unknown> {
    const { id } = await this.effects.save({ label });
    await script(context);
    return { id, body };
  }

  @Post('leases/:label')
  @Idempotent({ mode: 'lease' })
  async lease(@Param('label') label: string, @IdempotencyContext() context: IdempotencyContext): Promise<unknown> {
    const first = await context.step('first', () => this.effects.save({ label: `${label} 1` }));
    await script(context);
    const second = await context.transaction('second', () => this.effects.save({ label: `${label} 2` }));
    return [first.id, second.id];
  }
}

const isReplay = ({ headerLines }: RawResponse) =>
  headerLines.some((line) => /^idempotency-replayed: true$/i.test(line));
const typeOf = ({ body }: RawResponse) => (JSON.parse(body.toString()) as { type: string }).type;

/** @param make turns the plain tables of a database into others, which are to behave as they did */
export function itIsIdempotentOver(make: (databaseUrl: string) => Promise<void>, adapter: Adapter): void {
  let database: TestDatabase;
  let test: TestApp;

  beforeAll(async () => {
    database = await createTestDatabase();
    await make(database.url);
    test = await createTestApp({
      adapter,
      databaseUrl: database.url,
      idempotency: { purge: { batchSize: 10 } },
      controllers: [EffectsController],
    });
  });

  afterEach(async () => {
    script = () => undefined;
    await query('truncate idempotency_keys, idempotency_steps, effects');
  });

  afterAll(async () => {
    await test.close();
    await database.drop();
  });

  const query = <Row extends object>(sql: string, parameters: unknown[] = []) =>
    queryOn<Row>(database.url, sql, parameters);

  const expire = (keys: string[]) =>
    query(
      `update idempotency_keys set created_at = created_at - interval '2 days', expires_at = clock_timestamp()
       where key = any ($1)`,
      [keys],
    );

  const keys = (prefix: string) => Array.from({ length: KEYS }, (_, n) => `${prefix}${n}`);

  const forEach = <T>(all: string[], ask: (key: string) => Promise<T>) => Promise.all(all.map(ask));

  async function expectReplayed(first: RawResponse, retry: RawResponse): Promise<void> {
    expect(first.status).toBe(201);
    expect([isReplay(first), isReplay(retry)]).toEqual([false, true]);
    expect([retry.status, retry.body]).toEqual([first.status, first.body]);
  }

  it('runs once for each key, whichever rows lie beside it, and refuses another payload', async () => {
    await forEach(keys('k'), async (key) => {
      const first = await test.post('/effects/a', key, { key });
      await expectReplayed(first, await test.post('/effects/a', key, { key }));
      expect((await test.post('/effects/a', key, { other: key })).status).toBe(422);
    });
    expect(await test.effects()).toHaveLength(KEYS);
  });

  it('gives the loser of a race the response of the other', async () => {
    await test.post('/effects/a', 'other', { n: 1 });
    script = () =>
      // As where locks are not real: what another request has recorded meanwhile.
      query(
        `insert into idempotency_keys select (jsonb_populate_record(k, '{"key": "lost"}')).* from idempotency_keys k
         where key = 'other'`,
      );
    const lost = await test.post('/effects/a', 'lost', { n: 1 });
    const other = await test.post('/effects/a', 'other', { n: 1 });
    expect([lost.status, lost.body]).toEqual([201, other.body]);
    expect(isReplay(lost)).toBe(true);
    expect(await test.effects()).toEqual(['a']);
    expect(test.logs).toEqual([]);
  });

  it("stores an error without the handler's writes", async () => {
    script = () => {
      throw new HttpException('no money', 402);
    };
    const first = await test.post('/effects/a', 'k');
    const retry = await test.post('/effects/a', 'k');
    expect([first.status, retry.status, isReplay(retry)]).toEqual([402, 402, true]);
    expect(retry.body).toEqual(first.body);
    expect(await test.effects()).toEqual([]);
  });

  it('begins anew when a key has expired, purged or not', async () => {
    await forEach(keys('k'), (key) => test.post('/effects/a', key));
    await expire(keys('k').slice(0, KEYS / 2));
    await expect(test.app.get(IdempotencyService).purge()).resolves.toBe(KEYS / 2);
    await expire(keys('k').slice(KEYS / 2));
    const again = await forEach(keys('k'), (key) => test.post('/effects/b', key));
    expect(new Set(again.map(({ status }) => status))).toEqual(new Set([201]));
    expect(again.some(isReplay)).toBe(false);
    expect(await test.effects()).toHaveLength(2 * KEYS);
  });

  it('keeps every live key through purges among expired ones', async () => {
    const [live, expired] = [keys('live'), keys('expired')];
    await forEach([...live, ...expired], (key) => test.post('/effects/a', key));
    await expire(expired);
    await expect(test.app.get(IdempotencyService).purge()).resolves.toBe(KEYS);
    const retries = await forEach(live, (key) => test.post('/effects/a', key));
    expect(retries.filter(isReplay)).toHaveLength(KEYS);
    expect(await test.effects()).toHaveLength(2 * KEYS);
  });

  it('remembers the steps of a lease, keeps them through purges, and replays', async () => {
    script = () => {
      throw new Error('the first attempt fails');
    };
    const failed = await forEach(keys('k'), (key) => test.post('/leases/a', key));
    expect(failed.map(({ status }) => status)).toEqual(failed.map(() => 500));
    await query(
      `insert into idempotency_steps select gen_random_uuid(), 'over', 1, 1, '{}', '', 'over' || n, now()
       from generate_series(1, 30) as n`,
    );
    await test.app.get(IdempotencyService).purge();
    expect(await query('select from idempotency_steps')).toHaveLength(KEYS);

    script = () => undefined;
    await forEach(keys('k'), async (key) => {
      const first = await test.post('/leases/a', key);
      await expectReplayed(first, await test.post('/leases/a', key));
    });
    expect((await test.effects()).toSorted()).toEqual([...keys('').map(() => 'a 1'), ...keys('').map(() => 'a 2')]);
    expect(await query('select from idempotency_steps')).toEqual([]);
    test.logs.length = 0; // of the first attempts
  });

  it('tells a holder that it was fenced off', async () => {
    script = async () => {
      await query('update idempotency_keys set claim_id = gen_random_uuid(), attempt = attempt + 1');
    };
    const answer = await test.post('/leases/a', 'k');
    expect([answer.status, typeOf(answer)]).toEqual([409, 'urn:nestjs-idempotency:lease-lost']);
    expect(await test.effects()).toEqual(['a 1']);
    test.logs.length = 0;
  });
}
