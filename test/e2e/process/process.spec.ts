import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { createTestDatabase, type TestDatabase } from '../../support/database.js';
import { ADAPTERS } from '../../support/test-app.js';
import { ChildApp } from './child-app.js';
import { type Server, type Tracer, TRACERS } from './protocol.js';

let database: TestDatabase;
let app: ChildApp;
let observer: Client;
let keys = 0;

beforeAll(async () => {
  database = await createTestDatabase();
  observer = new Client(database.url);
  await observer.connect();
  await observer.query('create table effects (id serial primary key, label text not null)');
  app = await ChildApp.start(database.url);
});

beforeEach(async () => {
  await observer.query('truncate effects');
});

afterEach(() => app.trace('none'));

afterAll(async () => {
  await app.stop();
  await observer.end();
  await database.drop();
});

async function effects(): Promise<string[]> {
  const { rows } = await observer.query<{ label: string }>('select label from effects order by id');
  return rows.map(({ label }) => label);
}

function newKey(): string {
  return `key-${++keys}`;
}

/** First a request, then its retry. */
async function statuses(server: Server, path: string): Promise<number[]> {
  const key = newKey();
  return [(await app.post(server, path, key)).status, (await app.post(server, path, key)).status];
}

/** pg refuses whatever is not its own Query in a pipeline. */
function isRefused(tracer: Tracer, pipeline: boolean): boolean {
  return pipeline && tracer === 'copy';
}

describe.each(ADAPTERS)('a process of an application on %s', (adapter) => {
  const servers = (): Server[] => app.servers.filter((server) => server.adapter === adapter);

  describe.each([false, true])('with pipeline: %s', (pipeline) => {
    const server = (): Server => servers().find((one) => one.pipeline === pipeline)!;

    it.each(TRACERS)('answers under a tracer: %s', async (tracer) => {
      await app.trace(tracer);
      const expected = isRefused(tracer, pipeline) ? [503, 503] : [201, 201];
      expect(await statuses(server(), '/plainly')).toEqual(expected);
      await app.trace('none');
      expect(await effects()).toEqual(expected[0] === 201 ? ['plainly'] : []);
    });

    it.each(['/unawaited', '/unawaited-stored', '/unawaited-step'])(
      'outlives work that a failed handler has not awaited, which is undone: %s',
      async (path) => {
        expect(await statuses(server(), path)).toEqual([409, 409]);
        expect(await effects()).toEqual([]);
      },
    );

    it('keeps the connection of a request that releases it, or ends it', async () => {
      expect(await statuses(server(), '/released')).toEqual([201, 201]);
      expect(await effects()).toEqual(['released', 'still there']);
      expect(await app.get(server(), '/listeners')).toBe('0');
    });

    it('refuses the client of a request that is over, in another request as well', async () => {
      await app.post(server(), '/kept', newKey());
      const refusal = expect.stringContaining('of an idempotent request which is over');

      expect((await app.post(server(), '/kept/use', newKey())).body.toString()).toEqual(refusal);
      expect(await app.get(server(), '/kept/use')).toEqual(refusal);
      expect(await effects()).toEqual([]);
    });
  });

  it('names the statements of a request to a tracer, the same for each request', async () => {
    const seen: string[][] = [];
    for (let request = 1; request <= 2; request++) {
      await app.trace('opentelemetry');
      await app.post(servers()[0]!, '/plainly', newKey());
      const spans = (await app.spans()).filter(({ name }) => name.startsWith('pg.query'));
      expect(spans.filter(({ text }) => text === '')).toEqual([]);
      seen.push(spans.map(({ name, text }) => `${name}: ${text}`));
    }

    expect(seen[0]!.join('\n')).toContain('idempotency: ');
    expect(seen[0]!.join('\n')).toContain('insert into');
    expect(seen[1]).toEqual(seen[0]);
  });

  it('is alive in the end, and serves', async () => {
    expect(await app.isAliveASecondLater()).toBe(true);
    for (const server of servers()) {
      expect(await statuses(server, '/plainly')).toEqual([201, 201]);
    }
  });
});
