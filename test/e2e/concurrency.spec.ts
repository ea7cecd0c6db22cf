import type { Server } from 'node:http';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it } from '@jest/globals';
import { Controller, Get, Injectable, Post, Query } from '@nestjs/common';
import { InjectDataSource, InjectRepository } from '@nestjs/typeorm';
import { DataSource, type Repository } from 'typeorm';
import { deferred } from '../../src/util/deferred.js';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { Effect } from '../support/effect.entity.js';
import { openRequest, type RawResponse } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp, type TestAppOptions } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

/** Lets a test hold handlers open and see how many are inside. */
@Injectable()
class Gate {
  inside = 0;
  private opened = deferred();

  async pass(): Promise<void> {
    this.inside++;
    await this.opened.promise;
  }

  open(): void {
    this.opened.resolve();
    this.opened = deferred();
  }
}

@Controller()
class Work {
  constructor(
    private readonly gate: Gate,
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

  @Get('other')
  other() {
    return this.effects.count();
  }

  @Post('slow')
  @Idempotent()
  async slow(@Query('fail') fail?: string) {
    await this.effects.save({ label: 'slow' });
    await this.gate.pass();
    if (fail === 'yes') {
      throw new Error('failed as asked');
    }
    return { at: process.hrtime.bigint().toString() };
  }

  @Post('patient')
  @Idempotent({ inFlight: { waitMs: 8_000 } })
  patient(@Query('fail') fail?: string) {
    return this.slow(fail);
  }

  @Post('impatient')
  @Idempotent({ inFlight: { waitMs: 60 } })
  impatient() {
    return this.slow();
  }

  /** Two of these at once cannot be serialized: each counts what the other writes. The failure comes with the COMMIT. */
  private async skew(label: string) {
    const count = await this.effects.countBy({ label });
    await this.gate.pass();
    await this.effects.save({ label });
    return { count };
  }

  @Post('skew')
  @Idempotent({ isolation: 'SERIALIZABLE' })
  skewOnce(@Query('label') label: string) {
    return this.skew(label);
  }

  @Post('skew-again')
  @Idempotent({ isolation: 'SERIALIZABLE', retries: 5 })
  async skewAgain(@Query('label') label: string, @IdempotencyContext() context: IdempotencyContext) {
    return { ...(await this.skew(label)), attempt: context.attempt };
  }

  /** Updates a row that another transaction has changed meanwhile: the failure comes in the handler. */
  @Post('stale')
  @Idempotent({ isolation: 'REPEATABLE READ', retries: 3 })
  async stale(@Query('id') id: string, @IdempotencyContext() context: IdempotencyContext) {
    await this.effects.countBy({ id: Number(id) });
    await this.gate.pass();
    await this.dataSource.query(`update effects set label = label || '+' where id = $1`, [id]);
    return { attempt: context.attempt };
  }
}

const INSTANCE = { controllers: [Work], shared: [Gate] };

const statuses = (responses: RawResponse[]): Record<number, number> => {
  const counts: Record<number, number> = {};
  for (const { status } of responses) {
    counts[status] = (counts[status] ?? 0) + 1;
  }
  return counts;
};

describe.each(ADAPTERS)('duplicates and concurrency, on %s', (adapter) => {
  const running: TestApp[] = [];

  async function start(options: Partial<TestAppOptions> = {}): Promise<TestApp & { gate: Gate }> {
    const test = await createTestApp({ adapter, ...INSTANCE, ...options });
    running.unshift(test); // a second instance over the first one's database goes first
    return Object.assign(test, { gate: test.app.get(Gate) });
  }

  afterEach(async () => {
    for (const test of running.splice(0)) {
      await test.close();
    }
  });

  it('answers 409 at once while the first request runs, and the other routes go on with a pool of two', async () => {
    const test = await start({ poolSize: 2 });
    const first = test.post('/slow', 'k');
    await waitFor(() => test.gate.inside === 1, { timeoutMs: 5_000, what: 'the first request inside its handler' });

    const duplicates = await Promise.all(Array.from({ length: 200 }, () => test.post('/slow', 'k')));
    expect(statuses(duplicates)).toEqual({ 409: 200 });
    expect(duplicates[0]!.headerLines).toContain('Retry-After: 1');
    const other = await test.request({ method: 'GET', path: '/other' });
    expect(other.status).toBe(200);
    expect(test.gate.inside).toBe(1);

    test.gate.open();
    expect((await first).status).toBe(201);
    expect(await test.effects()).toEqual(['slow']);
  });

  it('answers 409 at once on another instance, without queueing behind the first in PostgreSQL', async () => {
    const one = await start();
    const two = await start({ databaseUrl: one.databaseUrl, poolSize: 2 });
    const first = one.post('/slow', 'k');
    await waitFor(() => one.gate.inside === 1, { timeoutMs: 5_000, what: 'the first request inside its handler' });

    const duplicates = await Promise.all(Array.from({ length: 50 }, () => two.post('/slow', 'k')));
    expect(statuses(duplicates)).toEqual({ 409: 50 });
    expect((await two.request({ method: 'GET', path: '/other' })).status).toBe(200);

    one.gate.open();
    const { body } = await first;
    const replay = await two.post('/slow', 'k');
    expect(replay.body.equals(body)).toBe(true);
    expect(replay.headerLines).toContain('Idempotency-Replayed: true');
  });

  it('asks the table whether a request that runs here still holds its key', async () => {
    const one = await start({ instances: 1 });
    const two = await start({ instances: 1, databaseUrl: one.databaseUrl });
    const cutOff = one.post('/slow', 'k');
    await waitFor(() => one.gate.inside === 1, { what: 'the first request inside its handler' });

    // Its session ends, and its handler notices nothing.
    const open = `from pg_stat_activity where datname = current_database() and state = 'idle in transaction'`;
    await two.dataSource.query(`select pg_terminate_backend(pid) ${open}`);
    await waitFor(async () => (await two.dataSource.query<unknown[]>(`select pid ${open}`)).length === 0, {
      what: 'the session to end',
    });
    const second = two.post('/slow', 'k');
    await waitFor(() => two.gate.inside === 1, { what: 'the second request inside its handler' });
    two.gate.open();
    const answer = await second;
    expect(answer.status).toBe(201);

    const retry = await one.post('/slow', 'k');
    expect(retry.body).toEqual(answer.body);
    expect(retry.headerLines).toContain('Idempotency-Replayed: true');
    one.gate.open();
    expect((await cutOff).body).toEqual(answer.body); // its outcome, for its own is lost
    expect(await two.effects()).toEqual(['slow']);
  });

  it('lets waiting duplicates have the replay as soon as it is there, without a connection in hand', async () => {
    const test = await start({ poolSize: 2 });
    const first = test.post('/patient', 'k');
    await waitFor(() => test.gate.inside === 1, { timeoutMs: 5_000, what: 'the first request inside its handler' });
    const duplicates = Array.from({ length: 40 }, () => test.post('/patient', 'k'));
    // All of them are in by the time a request that came later is answered.
    expect((await test.request({ method: 'GET', path: '/other' })).status).toBe(200);

    test.gate.open();
    const { body } = await first;
    for (const duplicate of await Promise.all(duplicates)) {
      expect(duplicate.status).toBe(201);
      expect(duplicate.body.equals(body)).toBe(true);
      expect(duplicate.headerLines).toContain('Idempotency-Replayed: true');
    }
    expect(await test.effects()).toEqual(['slow']);
  });

  it('lets duplicates wait for a request of another instance', async () => {
    const one = await start();
    const two = await start({ databaseUrl: one.databaseUrl });
    const first = one.post('/patient', 'k');
    await waitFor(() => one.gate.inside === 1, { timeoutMs: 5_000, what: 'the first request inside its handler' });
    const duplicates = Array.from({ length: 10 }, () => two.post('/patient', 'k'));

    one.gate.open();
    const { body } = await first;
    for (const duplicate of await Promise.all(duplicates)) {
      expect(duplicate.body.equals(body)).toBe(true);
    }
    expect(two.gate.inside).toBe(0);
  });

  it('answers 409 to a duplicate whose wait is over', async () => {
    const test = await start();
    const first = test.post('/impatient', 'k');
    await waitFor(() => test.gate.inside === 1, { timeoutMs: 5_000, what: 'the first request inside its handler' });
    expect((await test.post('/impatient', 'k')).status).toBe(409);
    test.gate.open();
    expect((await first).status).toBe(201);
  });

  it('lets exactly one waiting duplicate run when the first request fails', async () => {
    const test = await start();
    const first = test.post('/patient?fail=yes', 'k');
    await waitFor(() => test.gate.inside === 1, { timeoutMs: 5_000, what: 'the first request inside its handler' });
    const duplicates = Array.from({ length: 5 }, () => test.post('/patient?fail=yes', 'k'));
    test.gate.open();
    expect((await first).status).toBe(500);
    for (let round = 2; round <= 6; round++) {
      await waitFor(() => test.gate.inside === round, { timeoutMs: 5_000, what: `run ${round}` });
      test.gate.open();
    }
    expect(statuses(await Promise.all(duplicates))).toEqual({ 500: 5 });
    expect(await test.effects()).toEqual([]);
  });

  it('replays to a storm of retries, each with the same bytes', async () => {
    const test = await start({ poolSize: 4 });
    const first = test.post('/slow', 'k');
    await waitFor(() => test.gate.inside === 1, { timeoutMs: 5_000, what: 'the first request inside its handler' });
    test.gate.open();
    const { body } = await first;
    const storm = await Promise.all(Array.from({ length: 300 }, () => test.post('/slow', 'k')));
    expect(storm.every((response) => response.status === 201 && response.body.equals(body))).toBe(true);
    expect(test.gate.inside).toBe(1);
  });

  it('answers 503 with Retry-After, and stores nothing, when a transaction cannot be serialized', async () => {
    const test = await start();
    const both = [test.post('/skew?label=a', 'k1'), test.post('/skew?label=a', 'k2')];
    await waitFor(() => test.gate.inside === 2, { timeoutMs: 5_000, what: 'both requests inside their handlers' });
    test.gate.open();
    const responses = await Promise.all(both);
    // PostgreSQL may give up either or both: on small tables it takes neighbours for the same row.
    const lost = responses.findIndex(({ status }) => status === 503);
    expect(lost).not.toBe(-1);
    expect(responses[lost]!.headerLines.some((line) => /^retry-after: \d+$/i.test(line))).toBe(true);
    const committed = responses.filter(({ status }) => status === 201).length;
    expect(await test.effects()).toEqual(Array.from({ length: committed }, () => 'a'));

    const retry = test.post('/skew?label=a', lost === 0 ? 'k1' : 'k2');
    await waitFor(() => test.gate.inside === 3, { timeoutMs: 5_000, what: 'the retry inside its handler' });
    test.gate.open();
    expect((await retry).body.toString()).toBe(`{"count":${committed}}`);
  });

  it('runs a handler again, when its route says so, after a failure that came with the COMMIT', async () => {
    const test = await start();
    const both = Promise.all([test.post('/skew-again?label=b', 'k1'), test.post('/skew-again?label=b', 'k2')]);
    await waitFor(() => test.gate.inside === 2, { timeoutMs: 5_000, what: 'both requests inside their handlers' });
    test.gate.open();
    await waitFor(() => test.gate.inside > 2, { timeoutMs: 20_000, what: 'a second run' }); // COMMIT of several nodes takes its time
    const answered = new AbortController();
    const responses = await Promise.race([
      both.finally(() => answered.abort()),
      waitFor(
        () => {
          test.gate.open(); // for whoever has come to it by now
          return answered.signal.aborted;
        },
        { timeoutMs: 10_000, what: 'both answers' },
      ).then(() => both),
    ]);
    const bodies = responses.map(({ body }) => JSON.parse(body.toString()) as { count: number; attempt: number });
    expect(bodies.map(({ count }) => count).toSorted()).toEqual([0, 1]);
    expect(bodies.find(({ count }) => count === 1)!.attempt).toBeGreaterThan(1);
    const replay = await test.post('/skew-again?label=b', 'k1');
    expect(replay.body.equals(responses[0]!.body)).toBe(true);
    expect(await test.effects()).toEqual(['b', 'b']);
    expect(test.logs).toEqual([]);
  });

  it('runs a handler again after a failure of one of its statements', async () => {
    const test = await start();
    await test.dataSource.query(`insert into effects (label) values ('x')`);
    const request = test.post('/stale?id=1', 'k');
    await waitFor(() => test.gate.inside === 1, { timeoutMs: 5_000, what: 'the request inside its handler' });
    await test.dataSource.query(`update effects set label = 'y'`);
    test.gate.open();
    await waitFor(() => test.gate.inside === 2, { timeoutMs: 5_000, what: 'its second run' });
    test.gate.open();
    expect((await request).body.toString()).toBe('{"attempt":2}');
    expect(await test.effects()).toEqual(['y+']);
    expect((await test.post('/stale?id=1', 'k')).body.toString()).toBe('{"attempt":2}');
    expect(test.logs).toEqual([]);
  });

  it('answers 503 with Retry-After when the pool stays exhausted, and recovers', async () => {
    const test = await start({ poolSize: 1, instances: 1 }); // each has a pool of its own
    const first = test.post('/slow', 'k1');
    await waitFor(() => test.gate.inside === 1, { timeoutMs: 5_000, what: 'the first request inside its handler' });
    const starved = await test.post('/slow', 'k2');
    expect(starved.status).toBe(503);
    expect(starved.headerLines.some((line) => /^retry-after: \d+$/i.test(line))).toBe(true);
    expect(test.gate.inside).toBe(1);

    test.gate.open();
    expect((await first).status).toBe(201);
    const retry = test.post('/slow', 'k2');
    await waitFor(() => test.gate.inside === 2, { timeoutMs: 5_000, what: 'the retry inside its handler' });
    test.gate.open();
    expect((await retry).status).toBe(201);
  });

  it('finishes requests in flight when the application shuts down', async () => {
    const test = await start();
    const first = test.post('/slow', 'k');
    await waitFor(() => test.gate.inside === 1, { timeoutMs: 5_000, what: 'the first request inside its handler' });
    const closing = test.app.close();
    test.gate.open();
    expect((await first).status).toBe(201);
    await closing;
    expect(test.dataSource.isInitialized).toBe(false);
  });

  it('finishes also the request of a client that has gone when the application shuts down', async () => {
    const test = await start();
    const server = test.app.getHttpServer() as Server;
    const { destroy } = await openRequest(test.port, {
      method: 'POST',
      path: '/slow',
      headers: [['Idempotency-Key', 'k']],
    });
    await waitFor(() => test.gate.inside === 1, { timeoutMs: 5_000, what: 'the request inside its handler' });
    destroy();
    const connections = () => promisify(server.getConnections.bind(server))();
    await waitFor(async () => (await connections()) === 0, { what: 'the server to notice' });
    const closing = test.app.close(); // there is nobody to answer: the server does not wait
    await waitFor(() => !server.listening, { what: 'the server to be closed' });
    test.gate.open();
    await closing;
    const after = await start({ databaseUrl: test.databaseUrl });
    expect(await after.effects()).toEqual(['slow']);
    const replay = await after.request({ method: 'POST', path: '/slow', headers: [['Idempotency-Key', 'k']] });
    expect(replay.headerLines).toContain('Idempotency-Replayed: true');
  });
});
