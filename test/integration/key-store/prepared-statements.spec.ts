import { randomUUID } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import type { PoolClient } from 'pg';
import { sqlStateOf } from '../../../src/postgres/sqlstate.js';
import { isInTransaction } from '../../support/pg-client-state.js';
import {
  claimed,
  complete,
  effects,
  errorOf,
  INVALID_STATEMENT_NAME,
  recordFor,
  requestFor,
  rowsOf,
  preparation,
  session,
  store,
  withAStore,
  write,
} from './lab.js';

withAStore();

describe('prepared statements', () => {
  const prepared = async (client: PoolClient) =>
    (await client.query<{ name: string }>(`select name from pg_prepared_statements where name like 'idempotency%'`))
      .rows;

  it('are all made by the first claim of a connection, and used from then on', async () => {
    const client = await session();
    await claimed(client, 'k');
    const names = (await prepared(client)).map(({ name }) => name);
    expect(new Set(names.map((name) => name.replace(/^idempotency_[0-9a-f]{12}_/, '')))).toEqual(
      new Set([
        'begin',
        'begin_ru',
        'begin_rc',
        'begin_rr',
        'begin_s',
        'claim',
        'look_up',
        'try_lock',
        'savepoint',
        'undo',
        'check',
        'insert',
        'commit',
        'rollback',
        'put_back_limits',
        'put_back_session',
        'unlock',
      ]),
    );
    await store.rollback(client);
    await claimed(client, 'k', { isolation: 'SERIALIZABLE', savepoint: true });
    expect(await prepared(client)).toHaveLength(names.length);
  });

  it('have names that no other connection has', async () => {
    const names = await Promise.all(
      [await session(), await session()].map(async (client) => {
        await store.claim(client, requestFor(randomUUID()));
        return (await prepared(client)).map(({ name }) => name);
      }),
    );
    expect(new Set(names.flat()).size).toBe(names[0]!.length + names[1]!.length);
  });

  it('that are lost make a claim fail that has done nothing, and are done without from then on', async () => {
    const [client, other] = [await session(), await session()];
    await complete('k');
    await claimed(client, 'first');
    await store.rollback(client);
    await claimed(other, 'x');
    await store.rollback(other);
    await client.query('deallocate all');

    const error = await errorOf(store.claim(client, requestFor('second')));
    expect(sqlStateOf(error)).toBe(INVALID_STATEMENT_NAME);
    await expect(isInTransaction(client)).resolves.toBe(false);
    expect(preparation.shouldRunAgain(error)).toBe(true);
    expect(preparation.shouldRunAgain(new Error('anything else'))).toBe(false);

    await other.query('deallocate all');
    const request = requestFor('second', { savepoint: true });
    expect(await store.claim(other, request)).toEqual({ kind: 'claimed' });
    await write(other, 'undone');
    await store.record(other, recordFor(request), true);
    expect((await store.claim(other, requestFor('k'))).kind).toBe('completed');
    await store.rollback(other);
    expect(await prepared(other)).toEqual([]);
    expect(await effects()).toEqual([]);
  });

  it('that the handler has taken away make the record fail, and are done without from then on', async () => {
    const [client, other] = [await session(), await session()];
    const request = await claimed(client, 'k');
    await write(client);
    await client.query('deallocate all');
    const error = await errorOf(store.record(client, recordFor(request), false));
    expect(sqlStateOf(error)).toBe(INVALID_STATEMENT_NAME);
    await client.query('rollback');
    expect(await rowsOf()).toEqual([]);

    const again = await claimed(other, 'k');
    await other.query('deallocate all');
    await store.record(other, recordFor(again), false);
    expect(await rowsOf()).toHaveLength(1);
  });
});
