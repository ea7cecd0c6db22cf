import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client, type Pool, type PoolClient } from 'pg';
import { DataSource } from 'typeorm';
import { deferred } from '../../src/util/deferred.js';
import { TransactionOutcomeUnknownError, TransactionRolledBackError } from '../../src/protocol/exceptions.js';
import { AmbientTransaction } from '../../src/postgres/ambient/ambient-transaction.js';
import { AmbientTransactions } from '../../src/postgres/ambient/ambient-transactions.js';
import { KeyAlreadyRecordedError } from '../../src/postgres/statements/store-errors.js';
import { OwnedTransaction } from '../../src/postgres/owned-transaction.js';
import { CountingProxy } from '../support/counting-proxy.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { waitFor } from '../support/wait-for.js';

let database: TestDatabase;
let proxy: CountingProxy;
let dataSource: DataSource;
let transactions: AmbientTransactions;
let pool: Pool;
let observer: Client;
let rollbacks: number;

const store = {
  rollback: async (client: PoolClient): Promise<void> => {
    rollbacks += 1;
    await client.query('rollback');
  },
};
const sendCommit = async (client: PoolClient): Promise<void> => void (await client.query('commit'));

beforeAll(async () => {
  database = await createTestDatabase();
  proxy = await CountingProxy.start(database.url);
  dataSource = new DataSource({ type: 'postgres', url: proxy.url, poolSize: 4 });
  await dataSource.initialize();
  pool = (dataSource.driver as unknown as { master: Pool }).master;
  transactions = new AmbientTransactions(dataSource);
  observer = new Client(database.url);
  await observer.connect();
  await observer.query('create table effects (label text unique deferrable initially deferred)');
});

beforeEach(async () => {
  rollbacks = 0;
  proxy.translatesErrors = false;
  await observer.query('truncate effects');
});

afterEach(async () => {
  await waitFor(() => pool.idleCount === pool.totalCount, { what: 'the connections to be back in the pool' });
});

afterAll(async () => {
  await observer.end();
  await dataSource.destroy();
  await proxy.stop();
  await database.drop();
});

/** A transaction that has written a row. */
async function begin(label: string): Promise<OwnedTransaction> {
  const connection = await transactions.connect();
  await connection.client.query('begin');
  await connection.client.query('insert into effects values ($1)', [label]);
  return new OwnedTransaction(connection, store);
}

async function effects(): Promise<string[]> {
  const { rows } = await observer.query<{ label: string }>('select label from effects order by label');
  return rows.map(({ label }) => label);
}

describe('a transaction of the library', () => {
  it('is committed once COMMIT was acknowledged, whatever is asked of it later', async () => {
    const transaction = await begin('kept');

    expect(await transaction.commit(sendCommit)).toEqual({ kind: 'committed' });
    await transaction.rollBack();
    transaction.abort(new Error('too late'));

    expect(transaction.state).toBe('committed');
    expect(transaction.abortedBecause).toBeUndefined();
    expect(rollbacks).toBe(0);
    expect(await effects()).toEqual(['kept']);
  });

  it('is refused where the server refuses the COMMIT', async () => {
    await observer.query(`insert into effects values ('taken')`);
    const transaction = await begin('taken');

    expect(await transaction.commit(sendCommit)).toMatchObject({ kind: 'refused', error: { code: '23505' } });
    expect(transaction.state).toBe('rolled back');
    expect(await effects()).toEqual(['taken']);
  });

  it('is refused in whatever language the server speaks', async () => {
    await observer.query(`insert into effects values ('taken')`);
    const transaction = await begin('taken');
    proxy.translatesErrors = true;

    const refused = { kind: 'refused', error: { code: '23505', severity: 'LỖI' } };
    expect(await transaction.commit(sendCommit)).toMatchObject(refused);
    expect(transaction.state).toBe('rolled back');
  });

  it('is refused where a store has understood what the server refused', async () => {
    const transaction = await begin('lost');
    const cause = Object.assign(new Error(), { severity: 'ERROR', code: '23502' });
    const error = new KeyAlreadyRecordedError('taken', { cause });

    expect(await transaction.commit(() => Promise.reject(error))).toEqual({ kind: 'refused', error });
    expect(transaction.state).toBe('rolled back');
    expect(await effects()).toEqual([]);
  });

  it('is neither committed nor rolled back where the answer to COMMIT is lost', async () => {
    const transaction = await begin('perhaps');
    const { connections } = proxy;
    const committing = transaction.commit(async (client) => {
      proxy.swallowAnswers();
      await sendCommit(client);
    });
    await waitFor(async () => (await effects()).length > 0, { what: 'the COMMIT to take place' });
    expect(transaction.state).toBe('open');
    const cause = new Error('the time limit');
    transaction.abort(cause);

    expect(await committing).toEqual({ kind: 'unknown', error: cause });
    expect(transaction.state).toBe('unknown');
    await waitFor(() => pool.idleCount === pool.totalCount, {
      what: 'the connection to be given up',
      timeoutMs: 10_000,
    });
    expect(proxy.connections).toBe(connections); // a request to cancel has one of its own
  });

  it('is unknown where the connection breaks under the COMMIT', async () => {
    const transaction = await begin('perhaps');
    const answer = await transaction.commit((client) =>
      client.query('select pg_terminate_backend(pg_backend_pid())').then(() => sendCommit(client)),
    );

    expect(answer.kind).toBe('unknown');
    expect(transaction.state).toBe('unknown');
  });

  it('is rolled back once, and its connection given back', async () => {
    const transaction = await begin('undone');
    const { client } = transaction.connection;

    const both = [transaction.rollBack(), transaction.rollBack()];
    expect(transaction.state).toBe('rolled back');
    await Promise.all(both);

    expect(rollbacks).toBe(1);
    expect(await effects()).toEqual([]);
    const next = await transactions.connect();
    expect(next.client).toBe(client);
    next.release();
  });

  it('is rolled back behind what its connection is busy with', async () => {
    const transaction = await begin('undone');
    const quiet = deferred();
    const rolledBack = transaction.rollBack(() => quiet.promise);
    const { rows } = await transaction.connection.client.query<{ count: string }>('select count(*) from effects');
    expect([rows[0]!.count, rollbacks]).toEqual(['1', 0]);

    quiet.resolve();
    await rolledBack;
    expect(rollbacks).toBe(1);
  });

  it('is not rolled back while COMMIT is under way: that is waited for', async () => {
    const transaction = await begin('kept');
    const go = deferred();
    const committing = transaction.commit((client) => go.promise.then(() => sendCommit(client)));
    const rolledBack = transaction.rollBack();
    expect(transaction.state).toBe('open');
    go.resolve();
    await rolledBack;

    expect(await committing).toEqual({ kind: 'committed' });
    expect(rollbacks).toBe(0);
    expect(await effects()).toEqual(['kept']);
  });

  it('is not committed any more once it was rolled back before it was its turn', async () => {
    const transaction = await begin('undone');
    const turn = deferred();
    const committing = transaction.commit(sendCommit, (work) => turn.promise.then(work));
    await transaction.rollBack();
    turn.resolve();

    expect(await committing).toEqual({ kind: 'refused', error: expect.any(TransactionRolledBackError) });
    expect(await effects()).toEqual([]);
  });

  it('is refused at once by an abort before its turn, which may never come', async () => {
    const transaction = await begin('undone');
    const committing = transaction.commit(sendCommit, () => new Promise(() => undefined));
    const cause = new Error('the time limit');
    transaction.abort(cause);

    expect(await committing).toEqual({ kind: 'refused', error: cause });
    expect([transaction.state, transaction.abortedBecause]).toEqual(['rolled back', cause]);
    expect(await effects()).toEqual([]);
  });

  it('is ended by an abort, whatever its connection is busy with', async () => {
    const transaction = await begin('undone');
    const busy = transaction.connection.client.query('select pg_sleep(60)').catch((error: unknown) => error);
    transaction.abort(new Error('the time limit'));
    await transaction.rollBack();

    expect(await busy).toBeInstanceOf(Error);
    expect([transaction.state, rollbacks]).toEqual(['rolled back', 1]);
    expect(await effects()).toEqual([]);
  });
});

describe('late work of a request whose COMMIT was not answered', () => {
  it('is told that nobody knows, and refused', async () => {
    const transaction = new AmbientTransaction(transactions, await begin('perhaps'), 'READ COMMITTED');
    const [manager, runner] = transaction.run(() => [transaction.createManager(), dataSource.createQueryRunner()]);
    const sent = deferred();
    const committing = transaction.commit(() => {
      sent.resolve();
      return new Promise(() => undefined);
    });
    await sent.promise;
    transaction.abort(new Error('the time limit'));

    expect((await committing).kind).toBe('unknown');
    expect(transaction.state).toBe('unknown');
    const late = `insert into effects values ('late')`;
    for (const refused of [
      manager.query(late),
      runner.query(late),
      runner.connect(),
      manager.transaction((nested) => nested.query(late)),
      transaction.run(async () => dataSource.query(late)),
    ]) {
      await expect(refused).rejects.toThrow(TransactionOutcomeUnknownError);
    }
    expect(await effects()).toEqual([]);
  });
});
