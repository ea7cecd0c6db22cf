import { randomBytes } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import { DataSource } from 'typeorm';
import { CountingProxy } from '../../support/counting-proxy.js';
import { database, recordFor, requestFor, session, store, undo, withAStore, write } from './lab.js';

withAStore();

describe('on the wire', () => {
  it('a claim is one round trip and so is a record, whatever they carry, prepared yet or not', async () => {
    const proxy = await CountingProxy.start(database.url);
    undo.push(() => proxy.stop());
    const client = await session(proxy.pool);
    const count = (work: () => Promise<unknown>) => proxy.count(work);

    for (const [key, savepoint] of [
      ['first', false],
      ['second', false],
      ['third', true],
    ] as const) {
      const request = requestFor(key, { savepoint });
      expect(await count(() => store.claim(client, request))).toBe(1);
      const body = randomBytes(300_000);
      expect(
        await count(() => store.record(client, recordFor(request, { body, bodyBytes: body.length }), savepoint)),
      ).toBe(1);
    }
    expect(await count(() => store.claim(client, requestFor('first')))).toBe(1);
    expect(await count(() => store.rollback(client))).toBe(1);
    expect(await count(() => store.lookUp(client, { scope: '', key: 'first' }))).toBe(1);

    // The measure: what a transaction with one statement takes without the library.
    expect(
      await count(() =>
        client
          .query('begin')
          .then(() => write(client))
          .then(() => client.query('commit')),
      ),
    ).toBe(3);
  });

  it('a request takes two round trips beside its own statements, fewer than a transaction of TypeORM', async () => {
    const proxy = await CountingProxy.start(database.url);
    undo.push(() => proxy.stop());
    const dataSource = await new DataSource({ type: 'postgres', url: proxy.url, poolSize: 1 }).initialize();
    undo.push(() => dataSource.destroy());
    const insert = `insert into effects (label) values ('x')`;
    expect(await proxy.count(() => dataSource.transaction((manager) => manager.query(insert)))).toBe(3);
  });
});
