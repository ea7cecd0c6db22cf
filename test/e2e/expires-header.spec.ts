import { ConflictException, Controller, Post, Res } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Idempotent, IdempotencyContext, IdempotencyService } from '../../src/index.js';
import { CountingProxy } from '../support/counting-proxy.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { queryOn } from '../support/empty-database.js';
import type { RawResponse } from '../support/raw-http.js';
import { lines, replayOf } from '../support/response.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

const HEADER = 'Idempotency-Expires';
const HOOK = Symbol.for('nestjs-idempotency.failpoint');
const hooks = globalThis as { [HOOK]?: ((name: string) => void) | undefined };

/** Express' response and Fastify's reply. */
interface FrameworkResponse {
  status(status: number): this;
  header(name: string, value: string): this;
  send(body: unknown): unknown;
}

@Controller()
class Kept {
  @Post('transaction')
  @Idempotent({ ttlMs: 3_600_000 })
  transaction(): object {
    return { done: true };
  }

  @Post('lease')
  @Idempotent({ mode: 'lease', ttlMs: 3_600_000 })
  lease(): object {
    return { done: true };
  }

  @Post('by-hand')
  @Idempotent()
  byHand(@Res() response: FrameworkResponse): void {
    response.status(202).header(HEADER, 'never').send('done');
  }

  @Post('error')
  @Idempotent({ storeErrors: () => true })
  error(): never {
    throw new ConflictException();
  }

  @Post('too-large')
  @Idempotent({ maxBodyBytes: 0 })
  tooLarge(): object {
    return { done: true };
  }

  @Post('lost')
  @Idempotent({ timeoutMs: 400 })
  lost(): object {
    return { done: true };
  }

  @Post('failing')
  @Idempotent()
  failing(): never {
    throw new Error('as asked');
  }

  @Post('interrupted')
  @Idempotent({ mode: 'lease', onInterrupted: 'fail' })
  async interrupted(@IdempotencyContext() { step }: IdempotencyContext): Promise<void> {
    await step('done', () => true);
    throw new Error('as asked');
  }

  @Post('without')
  @Idempotent({ expiresHeader: false })
  without(): object {
    return { done: true };
  }
}

describe.each(ADAPTERS)('the header that tells when a key expires, on %s', (adapter) => {
  let database: TestDatabase;
  let proxy: CountingProxy;
  let app: TestApp;

  beforeAll(async () => {
    database = await createTestDatabase();
    proxy = await CountingProxy.start(database.url);
    const idempotency = { expiresHeader: HEADER, purge: false } as const;
    app = await createTestApp({ adapter, controllers: [Kept], databaseUrl: proxy.url, instances: 1, idempotency });
  });

  afterEach(() => {
    hooks[HOOK] = undefined;
  });

  afterAll(async () => {
    await app.close();
    await proxy.stop();
    await database.drop();
  });

  const told = (response: RawResponse) => lines(response, HEADER).map((line) => line.trim());
  const keptUntil = async (key: string) => {
    const [row] = await queryOn<{ until: string; headers: string }>(
      database.url,
      `select to_char(expires_at at time zone 'GMT', 'Dy, DD Mon YYYY HH24:MI:SS "GMT"') as until,
              response_headers::text as headers from idempotency_keys where key = '${key}'`,
    );
    return row!;
  };

  it.each(['transaction', 'lease', 'by-hand', 'error'])(
    'is what the table says, at first and on each replay: %s',
    async (path) => {
      const first = await app.post(`/${path}`, path);
      const { until, headers } = await keptUntil(path);
      expect(told(first)).toEqual([until]);
      for (let turn = 0; turn < 2; turn++) {
        const replay = await app.post(`/${path}`, path);
        expect(replay).toEqual(replayOf(first));
        expect(told(replay)).toEqual([until]);
      }
      expect(headers).not.toContain(until); // it is told anew each time, and no part of what is recorded
    },
  );

  it('is there where the key is kept without its response, and not on the problem that a retry gets', async () => {
    expect(told(await app.post('/too-large', 'too-large'))).toEqual([(await keptUntil('too-large')).until]);
    expect(told(await app.post('/too-large', 'too-large'))).toEqual([]);
  });

  it('is there where COMMIT was not answered, and its outcome was looked up', async () => {
    hooks[HOOK] = (name) => {
      if (name === 'record: sending') proxy.swallowAnswers();
    };
    const first = await app.post('/lost', 'lost');
    expect([first.status, told(first)]).toEqual([201, [(await keptUntil('lost')).until]]);
  });

  it('is there for what an operator has decided', async () => {
    await app.post('/interrupted', 'interrupted');
    await app.app.get(IdempotencyService).resolve('interrupted', { status: 200, body: 'decided' });
    const replay = await app.post('/interrupted', 'interrupted');
    expect([replay.body.toString(), told(replay)]).toEqual(['decided', [(await keptUntil('interrupted')).until]]);
  });

  it('is not there where nothing is kept, on problems, and where no option asks for it', async () => {
    expect(told(await app.post('/failing', 'failing'))).toEqual([]);
    await app.post('/transaction', 'used');
    expect(told(await app.post('/transaction', 'used', { other: true }))).toEqual([]);
    for (let turn = 0; turn < 2; turn++) expect(told(await app.post('/without', 'without'))).toEqual([]);
  });
});
