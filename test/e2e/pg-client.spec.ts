import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { ConflictException, StreamableFile } from '@nestjs/common';
import { type PoolClient, Query } from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import Cursor from 'pg-cursor';
import type QueryStreamType from 'pg-query-stream';
import type { DataSource } from 'typeorm';
import { PLACES, script, ScriptedController } from '../support/scripted-routes.js';
import { waitFor } from '../support/wait-for.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

const QueryStream = createRequire(import.meta.url)('pg-query-stream') as typeof QueryStreamType;

type Use = (client: PoolClient) => unknown;

/** Rows that take several reads, and more bytes than the sockets between take. */
const MANY = `select n, repeat('x', 1000) from generate_series(1, 20000) n`;

async function clientOf(dataSource: DataSource): Promise<PoolClient> {
  return (await dataSource.createQueryRunner().connect()) as PoolClient;
}

function failureOf(query: unknown, client: PoolClient): Promise<unknown> {
  return new Promise((resolve) => {
    (client.query as (...given: unknown[]) => void)(query, (error: unknown) => resolve(error));
  });
}

/** In which somebody may hand pg a statement; each answers with the error. */
const FORMS: Record<string, (client: PoolClient, sql: string) => Promise<unknown>> = {
  'a text': (client, sql) => client.query(sql).catch((error: unknown) => error),
  'a text with a callback': (client, sql) => failureOf(sql, client),
  'a query object': (client, sql) => client.query({ text: sql, name: 'named' }).catch((error: unknown) => error),
  "pg's own Query": (client, sql) => failureOf(new Query(sql), client),
  'pg-cursor': (client, sql) => {
    const reading = client.query(new Cursor(sql)).read(1);
    return reading.catch((error: unknown) => error);
  },
  'pg-query-stream': async (client, sql) => {
    const stream = client.query(new QueryStream(sql));
    stream.resume();
    return ((await once(stream, 'error')) as unknown[])[0];
  },
};

/** Left open, one way each. */
const LEFT_OPEN: Record<string, Use> = {
  'a cursor': (client) => client.query(new Cursor(MANY)).read(10),
  'a cursor that nobody has read from': (client) => void client.query(new Cursor(MANY)),
  'two cursors, the second behind the first': async (client) => {
    const [first] = [client.query(new Cursor(MANY)), client.query(new Cursor(MANY))];
    await first.read(10);
  },
  'a stream of rows': async (client) => {
    const stream = client.query(new QueryStream(MANY));
    await once(stream, 'readable');
    stream.read();
  },
  'a stream of rows that was destroyed as it waited behind another': async (client) => {
    const [first, second] = [client.query(new QueryStream(MANY)), client.query(new QueryStream(MANY))];
    await once(first, 'readable');
    second.destroy();
  },
  'a COPY to here': async (client) => {
    const stream = client.query(copyTo(`copy (${MANY}) to stdout`));
    await once(stream, 'readable');
    stream.read();
  },
};

describe.each(ADAPTERS)("pg's own client in a handler, on %s", (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [ScriptedController], poolSize: 1 });
    await test.dataSource.query('create table notes (note text)');
  });

  beforeEach(() => test.dataSource.query('delete from notes'));

  afterAll(() => test.close());

  const notes = async (): Promise<string[]> =>
    (await test.dataSource.query<{ note: string }[]>('select note from notes')).map(({ note }) => note);

  describe.each(PLACES)('in a %s', (place) => {
    const post = (work: (client: PoolClient, dataSource: DataSource) => unknown) => {
      const name = script(async (dataSource) => work(await clientOf(dataSource), dataSource));
      return test.post(`/${place}/${name}`, randomUUID());
    };

    it.each(Object.keys(FORMS))('refuses what would end the transaction before it is sent, as %s', async (form) => {
      const met: unknown[] = [];
      const response = await post(async (client) => {
        await client.query(`insert into notes values ('before')`);
        for (const sql of ['commit', 'select 1; rollback', "prepare transaction 'x'", 'begin; select 1']) {
          met.push(await FORMS[form]!(client, sql));
        }
        await client.query(`insert into notes values ('after')`);
        return 'done';
      });
      expect(response.status).toBe(201);
      expect(met).toEqual(
        Array(4).fill(expect.objectContaining({ message: expect.stringContaining('would end the transaction') })),
      );
      expect(await notes()).toEqual(['before', 'after']);
    });

    it('fails a handler that ends the transaction by it, and keeps nothing', async () => {
      const response = await post(async (client) => {
        await client.query(`insert into notes values ('before')`);
        await client.query('commit');
      });
      expect(response.status).toBe(500);
      expect(await notes()).toEqual([]);
    });

    it('takes savepoints, and cursors that are read to their end', async () => {
      const response = await post(async (client) => {
        await client.query('savepoint mine');
        await client.query('insert into nowhere values (1)').catch(() => undefined);
        await client.query('rollback to savepoint mine');
        const rows = await client.query(new QueryStream('select 1 as n union all select 2')).toArray();
        const copying = client.query(copyFrom('copy notes from stdin'));
        await pipeline(Readable.from(rows.map(({ n }: { n: number }) => `${n}\n`)), copying);
        return 'done';
      });
      expect(response.status).toBe(201);
      expect(await notes()).toEqual(['1', '2']);
    });

    it.each(Object.keys(LEFT_OPEN))('is answered with the error of a handler that has left open %s', async (what) => {
      const response = await post(async (client) => {
        await client.query(`insert into notes values ('undone')`);
        await LEFT_OPEN[what]!(client);
        throw new ConflictException('as asked');
      });
      expect([response.status, String(response.body)]).toEqual([409, expect.stringContaining('as asked')]);
      expect(await notes()).toEqual([]);
    });

    it.each(Object.keys(LEFT_OPEN))('records what a handler did that has left open %s', async (what) => {
      const response = await post(async (client) => {
        await client.query(`insert into notes values ('kept')`);
        await LEFT_OPEN[what]!(client);
        return 'done';
      });
      expect([response.status, String(response.body)]).toEqual([201, 'done']);
      expect(await notes()).toEqual(['kept']);
    });

    it.each([
      [
        'does not end a COPY from here',
        async (client: PoolClient) => {
          const stream = client.query(copyFrom('copy notes from stdin'));
          stream.write('copied\n');
        },
      ],
      [
        'breaks a COPY to here off',
        async (client: PoolClient) => {
          for await (const chunk of client.query(copyTo(`copy (${MANY}) to stdout`))) {
            return chunk;
          }
        },
      ],
    ])('lets a handler fail that %s, and answers with its own error where it has one', async (_, leave) => {
      for (const [error, status] of [
        [undefined, 500],
        [new ConflictException(), 409],
      ] as const) {
        const response = await post(async (client) => {
          await client.query(`insert into notes values ('undone')`);
          await leave(client);
          if (error !== undefined) throw error;
        });
        expect(response.status).toBe(status);
        expect(await notes()).toEqual([]);
      }
    });

    it('waits for statements that were handed to it and not awaited, one after another', async () => {
      const response = await post((client) => {
        const work = async (): Promise<void> => {
          for (const note of ['1', '2', '3']) await client.query('insert into notes values ($1)', [note]);
        };
        void work();
        return 'done';
      });
      expect(response.status).toBe(201);
      expect(await notes()).toEqual(['1', '2', '3']);
    });
  });

  it('sends a response that reads from a stream of rows', async () => {
    const name = script(async (dataSource) => {
      const stream = (await clientOf(dataSource)).query(new QueryStream('select n from generate_series(1, 1000) n'));
      return new StreamableFile(stream.map(({ n }: { n: number }) => Buffer.from(`${n}\n`)) as Readable);
    });
    const response = await test.post(`/transaction/${name}`, randomUUID());
    expect(String(response.body).trim().split('\n')).toHaveLength(1000);
  });

  it('frees the key of a handler that was given up with an open cursor', async () => {
    const key = randomUUID();
    let runs = 0;
    const name = script(async (dataSource) => {
      if (++runs > 1) return 'done';
      await (await clientOf(dataSource)).query(new Cursor(MANY)).read(10);
      return new Promise(() => undefined);
    });
    expect((await test.post(`/impatient/${name}`, key)).status).toBe(503);
    const givenUpAt = performance.now();
    await waitFor(async () => (await test.post(`/impatient/${name}`, key)).status === 201, { what: 'the key' });
    expect(performance.now() - givenUpAt).toBeLessThan(1_500);
  });
});
