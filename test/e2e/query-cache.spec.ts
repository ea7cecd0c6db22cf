import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { Pool } from 'pg';
import { DataSource } from 'typeorm';
import { deferred } from '../../src/util/deferred.js';
import { Effect } from '../support/effect.entity.js';
import { PLACES, script, ScriptedController } from '../support/scripted-routes.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

type Cache = NonNullable<DataSource['queryResultCache']>;
type Options = Parameters<Cache['storeInCache']>[0];

/** A provider of one's own, as it might be for a memory or a server of its own. */
class MapCache implements Cache {
  readonly entries = new Map<string, Options>();

  async connect(): Promise<void> {}
  async disconnect(): Promise<void> {}
  async synchronize(): Promise<void> {}

  async getFromCache({ identifier }: Options): Promise<Options | undefined> {
    return this.entries.get(identifier!);
  }

  async storeInCache(options: Options): Promise<void> {
    this.entries.set(options.identifier!, options);
  }

  isExpired({ time, duration }: Options): boolean {
    return time! + duration < Date.now();
  }

  async clear(): Promise<void> {
    this.entries.clear();
  }

  async remove(identifiers: string[]): Promise<void> {
    identifiers.forEach((identifier) => this.entries.delete(identifier));
  }
}

const KINDS = ['the database', 'a provider of its own'] as const;

describe.each(ADAPTERS)('the query result cache, on %s', (adapter) => {
  describe.each(KINDS)('kept by %s', (kind) => {
    let test: TestApp;
    /** What this test caches by: what the one before has stored after its COMMIT must not be in the way. */
    let labelled: string;

    beforeAll(async () => {
      const cache = kind === 'the database' ? true : { provider: () => new MapCache() };
      test = await createTestApp({
        adapter,
        instances: 1,
        controllers: [ScriptedController],
        configure: (app) => void app.get(DataSource).setOptions({ cache }),
      });
      await test.dataSource.queryResultCache!.synchronize();
    });

    beforeEach(async () => {
      labelled = randomUUID();
      await test.dataSource.getRepository(Effect).clear();
    });

    afterAll(() => test.close());

    const labels = async (dataSource: DataSource, identifier = labelled, milliseconds = 60_000): Promise<string[]> => {
      const effects = await dataSource.getRepository(Effect).find({ cache: { id: identifier, milliseconds } });
      return effects.map(({ label }) => label);
    };

    const cached = async (identifier = labelled): Promise<number | undefined> => {
      const runner = test.dataSource.createQueryRunner(); // TypeORM 0.3.20 does not release one of its own
      try {
        const found = await test.dataSource.queryResultCache!.getFromCache({ identifier, duration: 0 }, runner);
        return found && (JSON.parse(found.result!) as unknown[]).length;
      } finally {
        await runner.release();
      }
    };

    it.each(PLACES)('learns of what a %s has read when that has committed', async (place) => {
      const [read, go] = [deferred(), deferred()];
      const name = script(async (dataSource) => {
        await dataSource.getRepository(Effect).insert({ label: 'a' });
        const found = await labels(dataSource);
        await dataSource.query(`insert into effects (label) values ('b')`);
        const again = await labels(dataSource); // from the cache, as it would be without the library
        read.resolve();
        await go.promise;
        return { found, again };
      });
      const response = test.post(`/${place}/${name}`, randomUUID());
      await read.promise;
      expect(await cached()).toBeUndefined();
      go.resolve();
      expect(JSON.parse(String((await response).body))).toEqual({ found: ['a'], again: ['a'] });
      await waitFor(async () => (await cached()) === 1, { what: 'the cache to be filled' });
      expect(await labels(test.dataSource)).toEqual(['a']);
    });

    it.each(PLACES)('never learns of what was undone in a %s', async (place) => {
      const failing = script(async (dataSource) => {
        await dataSource.getRepository(Effect).insert({ label: 'a' });
        await labels(dataSource);
        throw new Error('expected');
      });
      const undoing = script(async (dataSource) => {
        await dataSource
          .transaction(async (manager) => {
            await manager.insert(Effect, { label: 'a' });
            await labels(dataSource);
            throw new Error('expected');
          })
          .catch(() => undefined);
        await labels(dataSource, `other ${labelled}`);
      });
      expect((await test.post(`/${place}/${failing}`, randomUUID())).status).toBe(500);
      expect((await test.post(`/${place}/${undoing}`, randomUUID())).status).toBe(201);
      await waitFor(async () => (await cached(`other ${labelled}`)) === 0, { what: 'the cache to be filled' });
      expect(await cached()).toBeUndefined();
    });

    it.each(PLACES)('forgets what a %s has removed when that has committed, and for itself at once', async (place) => {
      await labels(test.dataSource);
      const [removed, go] = [deferred(), deferred()];
      const name = script(async (dataSource) => {
        await dataSource.getRepository(Effect).insert({ label: 'a' });
        await dataSource.queryResultCache!.remove([labelled]);
        const fresh = await dataSource.getRepository(Effect).find({ cache: { id: labelled, milliseconds: 60_000 } });
        removed.resolve();
        await go.promise;
        return fresh.length;
      });
      const response = test.post(`/${place}/${name}`, randomUUID());
      await removed.promise;
      expect(await labels(test.dataSource)).toEqual([]);
      go.resolve();
      expect(String((await response).body)).toBe('1');
      await waitFor(async () => (await cached()) === 1, { what: 'the cache to be filled anew' });
    });

    it.each(PLACES)('gives the connection back by which it forgets what a %s has cleared', async (place) => {
      const { master: pool } = test.dataSource.driver as unknown as { master: Pool };
      const busy = (): number => pool.totalCount - pool.idleCount;
      const before = busy(); // TypeORM 0.3.20 keeps that of synchronize()
      const name = script((dataSource) => dataSource.queryResultCache!.clear());
      expect((await test.post(`/${place}/${name}`, randomUUID())).status).toBe(201);
      await waitFor(() => busy() === before, { what: 'the connection to be back', timeoutMs: 5_000 });
    });

    it.each(PLACES)('has nobody wait for a %s that refreshes it', async (place) => {
      for (const id of ['x', 'y']) await labels(test.dataSource, id + labelled, 0);
      const bothRead = deferred();
      let read = 0;
      const refreshing = (...ids: string[]): string =>
        script(async (dataSource) => {
          for (const id of ids) {
            await labels(dataSource, id + labelled, 0);
            if (++read === 2) bothRead.resolve();
            await bothRead.promise;
          }
        });
      const responses = [refreshing('x', 'y'), refreshing('y', 'x')].map((name) =>
        test.post(`/${place}/${name}`, randomUUID()),
      );
      await bothRead.promise;
      expect(await labels(test.dataSource, `x${labelled}`, 0)).toEqual([]);
      expect((await Promise.all(responses)).map(({ status }) => status)).toEqual([201, 201]);
    });
  });
});
