/*
 * What went wrong in other libraries, and where it is proven that it does not here. The tests below are the lessons that
 * no other suite proves.
 *
 * Replay
 *   204 or void: the replay answers 500              response-kinds: void, no-content; replayed-headers: 'without a body'
 *   @Res() runs twice, hangs, or replays empty       response-kinds: res, res-later, stream-in-pieces; outcomes: '@Res()'
 *   StreamableFile, Buffer, binary replayed as JSON  response-kinds: buffer, stream-of-buffer, stream-of-file
 *   an outer interceptor breaks the first response   response-kinds: 'answers ... as it would without the library'
 *   Location and ETag lost                           response-kinds: headers; replayed-headers: 'without a body'
 *   Set-Cookie replayed to another caller            replayed-headers: 'never hold what belongs to ... one caller'
 *   stale X-Request-Id and X-RateLimit-*             replayed-headers: "are this request's own, request id, rate limit"
 *   repeated headers collapsed                       replayed-headers: 'repeat the lines that the first response had'
 *   the client goes away before the save             outcomes: 'a client that goes away'
 *   every unhandled 500 stored                       outcomes: 'an error', 'does not store an error of 500'
 *
 * Keys, scope, fingerprint
 *   "k" and k are two keys                           wire: 'is the same in quotes and bare'
 *   several header lines silently joined             wire: 'sent in two lines'
 *   another endpoint, query or user gets the answer  wire: 'with another ... is refused', 'two users'
 *   reordered JSON members give 422                  wire: 'members of its JSON come in another order'
 *   validation errors burn the key                   outcomes: 'of validation leaves the key usable'
 *   the raw key leaks into logs                      wire: 'never tells the key'
 *   a stored response keeps secrets                  replayed-headers: 'neither does the row', 'are more or fewer'
 *
 * Concurrency and crashes
 *   a crash keeps the key for the whole TTL          payments-example: 'keeps payments and keys over a kill'; and below
 *   a lease shorter than the handler                 outcomes: "the route's own time limit leaves nothing"
 *   duplicates wait with a connection in hand        concurrency: 'without a connection in hand'
 *   an expired row blocks or replays                 wire: 'neither replays nor blocks'
 *   the caller is told of what was rolled back       outcomes: 'violates a deferred constraint at COMMIT'
 *   wanted: wait instead of 409                      concurrency: 'lets waiting duplicates have the replay'
 *   wanted: 409 at once with Retry-After             wire: 'comes too early'
 *   wanted: a replay marker                          wire: 'gets the same status, headers and bytes'
 *   wanted: errors stored or not, by choice          outcomes: 'storeErrors'
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Body, Controller, Injectable, Post, type Type, UploadedFile, UseInterceptors } from '@nestjs/common';
import { FileInterceptor } from '@nestjs/platform-express';
import { InjectDataSource, InjectRepository } from '@nestjs/typeorm';
import { DataSource, type Repository } from 'typeorm';
import { type Deferred, deferred } from '../../src/util/deferred.js';
import { Idempotent } from '../../src/index.js';
import { Effect } from '../support/effect.entity.js';
import type { RawResponse } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp, type TestAppOptions } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

/** Holds the runs of one handler, each until the test lets it go. */
@Injectable()
class Gate {
  readonly runs: Deferred<void>[] = [];

  pass(): Promise<void> {
    const run = deferred();
    this.runs.push(run);
    return run.promise;
  }
}

interface Labelled {
  label: string;
}

@Controller()
class Operations {
  constructor(
    private readonly gate: Gate,
    @InjectRepository(Effect) private readonly effects: Repository<Effect>,
    @InjectDataSource() private readonly dataSource: DataSource,
  ) {}

  @Post('orders')
  @Idempotent()
  async order(@Body() { label }: Labelled) {
    return { id: (await this.effects.save({ label })).id };
  }

  @Post('held')
  @Idempotent({ inFlight: { waitMs: 50 } })
  async held(@Body() { label }: Labelled) {
    const { id } = await this.effects.save({ label });
    const run = this.gate.runs.length + 1;
    await this.gate.pass();
    return { id, run };
  }

  /** A service with a transaction of its own, as `@Transactional()` or `DataSource.transaction()` make it. */
  @Post('transactional')
  @Idempotent()
  async transactional(@Body() { label }: Labelled) {
    await this.dataSource.transaction(async (manager) => {
      await manager.save(Effect, { label });
      await manager.transaction((inner) => inner.save(Effect, { label }));
    });
    throw new Error('after its own transaction had committed');
  }
}

/** Multer's temporary files get a new random name each time. */
function uploadsOnExpress(dest: string): Type {
  @Controller()
  class Uploads {
    constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

    @Post('uploads')
    @Idempotent()
    @UseInterceptors(FileInterceptor('file', { dest }))
    async upload(@UploadedFile() file: Express.Multer.File) {
      await this.effects.save({ label: file.originalname });
      return { size: file.size };
    }
  }
  return Uploads;
}

interface FastifyFile {
  filename: string;
  toBuffer(): Promise<Buffer>;
}

@Controller()
class UploadsOnFastify {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  @Post('uploads')
  @Idempotent()
  async upload(@Body() { file }: { file: FastifyFile }) {
    await this.effects.save({ label: file.filename });
    return { size: (await file.toBuffer()).length };
  }
}

const isReplay = ({ headerLines }: RawResponse) => headerLines.includes('Idempotency-Replayed: true');

const statusesOf = (responses: RawResponse[]) => responses.map(({ status }) => status);

describe.each(ADAPTERS)('what went wrong elsewhere does not happen on %s', (adapter) => {
  let folder: string;
  let test: TestApp & { gate: Gate };
  const others: TestApp[] = [];

  async function start(options: Partial<TestAppOptions> = {}): Promise<TestApp & { gate: Gate }> {
    const started = await createTestApp({
      adapter,
      controllers: [Operations, adapter === 'express' ? uploadsOnExpress(folder) : UploadsOnFastify],
      shared: [Gate],
      ...options,
    });
    return Object.assign(started, { gate: started.app.get(Gate) });
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'idempotency-lessons-'));
    test = await start();
  });

  afterEach(async () => {
    test.gate.runs.splice(0).forEach((run) => run.resolve());
    for (const other of others.splice(0)) {
      await other.close();
    }
  });

  afterAll(async () => {
    await test.close();
    await rm(folder, { recursive: true });
  });

  const effects = async (label: string) => (await test.effects()).filter((effect) => effect === label).length;

  /** A second instance of the application, over the same database. */
  async function secondInstance(): Promise<TestApp & { gate: Gate }> {
    const second = await start({ databaseUrl: test.databaseUrl });
    others.push(second);
    return second;
  }

  const entered = (gate: Gate, runs: number) =>
    waitFor(() => gate.runs.length === runs, { what: `${runs} runs in the handler` });

  /** Closes the session that holds a claim, as a crash of the application's machine or of PostgreSQL does. */
  async function killClaim(): Promise<void> {
    const holders = `from pg_locks where locktype = 'advisory' and objsubid = 1 -- by one number: Citus takes others
      and database = (select oid from pg_database where datname = current_database())`;
    expect(await test.dataSource.query(`select pg_terminate_backend(pid) ${holders}`)).toHaveLength(1);
    await waitFor(async () => ((await test.dataSource.query(`select ${holders}`)) as unknown[]).length === 0, {
      what: 'the session to end',
    });
  }

  describe('on keys, scope and fingerprint:', () => {
    it('a new key with a body seen before is refused (two identical orders are two orders)', async () => {
      const one = await test.post('/orders', 'order-1', { label: 'identical' });
      const other = await test.post('/orders', 'order-2', { label: 'identical' });
      expect(statusesOf([one, other])).toEqual([201, 201]);
      expect(isReplay(other)).toBe(false);
      expect(other.body.equals(one.body)).toBe(false);
      expect(await effects('identical')).toBe(2);
    });

    it('all multipart bodies share one fingerprint; upload retries mismatch since the temporary path is hashed', async () => {
      const upload = (content: string, boundary: string) =>
        test.request({
          method: 'POST',
          path: '/uploads',
          headers: [
            ['Idempotency-Key', 'upload'],
            ['Content-Type', `multipart/form-data; boundary=${boundary}`],
          ],
          body:
            `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="scan.pdf"\r\n` +
            `Content-Type: application/pdf\r\n\r\n${content}\r\n--${boundary}--\r\n`,
        });
      const first = await upload('a scan', 'one');
      expect(first.body.toString()).toBe('{"size":6}');
      const retry = await upload('a scan', 'two');
      expect([retry.status, isReplay(retry), retry.body]).toEqual([201, true, first.body]);
      expect((await upload('b scan', 'one')).status).toBe(422);
      expect(await effects('scan.pdf')).toBe(1);
      expect(await readdir(folder)).toHaveLength(adapter === 'express' ? 3 : 0);
    });

    it('a caller behind NAT shares the "anonymous" scope with strangers (and nobody has said so)', async () => {
      const silent = await start();
      others.push(silent);
      expect(silent.logs).toEqual([]);
      const warned = await start({ idempotency: { scope: undefined }, instances: 1 }); // each says so once
      others.push(warned);
      expect(warned.logs).toEqual([
        expect.stringMatching(/No guard can tell who calls Operations\.order, .*: all callers share one scope/),
      ]);
    });
  });

  describe('on concurrency and crashes:', () => {
    it('a crash leaves the key in progress', async () => {
      const crashing = test.post('/held', 'crash', { label: 'crash' });
      await entered(test.gate, 1);
      expect((await test.post('/held', 'crash', { label: 'crash' })).status).toBe(409);
      await killClaim();
      test.gate.runs[0]!.resolve();
      expect((await crashing).status).toBe(503);
      expect(await effects('crash')).toBe(0);

      const retry = test.post('/held', 'crash', { label: 'crash' });
      await entered(test.gate, 2);
      test.gate.runs[1]!.resolve();
      expect((await retry).status).toBe(201);
      expect(await effects('crash')).toBe(1);
    });

    it("a late finisher overwrites the newer owner's record for want of a fencing token", async () => {
      const second = await secondInstance();
      const late = test.post('/held', 'late', { label: 'late' });
      await entered(test.gate, 1);
      await killClaim(); // the first instance does not know that it has lost the key

      const newer = second.post('/held', 'late', { label: 'late' });
      await entered(second.gate, 1);
      second.gate.runs[0]!.resolve();
      const recorded = await newer;
      expect([recorded.status, isReplay(recorded)]).toEqual([201, false]);

      test.gate.runs[0]!.resolve();
      const answer = await late;
      expect([answer.status === 503, answer.body.equals(recorded.body)]).toContain(true);
      for (const instance of [test, second]) {
        const replay = await instance.post('/held', 'late', { label: 'late' });
        expect([isReplay(replay), replay.body]).toEqual([true, recorded.body]);
      }
      expect(await effects('late')).toBe(1);
    });

    it('a waiter that gives up removes the live record', async () => {
      const second = await secondInstance();
      const first = test.post('/held', 'waiter', { label: 'waiter' });
      await entered(test.gate, 1);
      const waiters = await Promise.all(
        [test, second].map((instance) => instance.post('/held', 'waiter', { label: 'waiter' })),
      );
      expect(statusesOf(waiters)).toEqual([409, 409]);
      test.gate.runs[0]!.resolve();
      const { body } = await first;
      for (const instance of [test, second]) {
        const replay = await instance.post('/held', 'waiter', { label: 'waiter' });
        expect([isReplay(replay), replay.body]).toEqual([true, body]);
      }
      expect(await effects('waiter')).toBe(1);
    });

    it('check, then insert: the race', async () => {
      const second = await secondInstance();
      for (let round = 1; round <= 5; round++) {
        const label = `race ${round}`;
        const responses = await Promise.all(
          Array.from({ length: 20 }, (_, index) => [test, second][index % 2]!.post('/orders', label, { label })),
        );
        const ran = responses.filter((response) => response.status === 201 && !isReplay(response));
        expect(ran).toHaveLength(1);
        for (const response of responses) {
          expect([409, 201]).toContain(response.status);
          expect(response.status === 409 || response.body.equals(ran[0]!.body)).toBe(true);
        }
        expect(await effects(label)).toBe(1);
      }
    });

    it('the interceptor runs outside @Transactional: what that commits stays when the request fails', async () => {
      expect((await test.post('/transactional', 'transactional', { label: 'transactional' })).status).toBe(500);
      expect(await effects('transactional')).toBe(0);
    });
  });
});
