import { describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { WORKERS } from '../../support/citus.js';
import { createTestDatabase } from '../../support/database.js';
import { Effect } from '../../support/effect.entity.js';
import { ADAPTERS } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { database, keys, observer, rows, sessions, started, terminate, withADatabaseEach } from './lab.js';
import { expectOrdinary, startWith } from './special-shop.js';

withADatabaseEach();

const SETTINGS: [string, object][] = [
  ["bytea_output = 'escape'", { byteaOutput: 'escape' }],
  ["intervalstyle = 'sql_standard'", {}],
  ["timezone = 'Pacific/Chatham'", {}],
  ["default_transaction_isolation = 'serializable'", { isolation: 'serializable' }],
  ['extra_float_digits = -15', {}],
  ["search_path = '$user', 'public', 'pg_catalog'", {}],
];

/** Refused at boot where the tables are those of Citus: see `test/citus/literals.cluster.ts`. */
const WAYS_TO_WRITE_VALUES: [string, object][] = [
  ["datestyle = 'SQL, DMY'", {}],
  ["datestyle = 'German'", {}],
  ['standard_conforming_strings = off', {}],
];

const settings = WORKERS.length === 0 ? [...SETTINGS, ...WAYS_TO_WRITE_VALUES] : SETTINGS;

describe.each(ADAPTERS)('with a DataSource that is different, on %s,', (adapter) => {
  it('by default, all is as with any other', async () => {
    const test = await startWith(adapter, {});
    await expectOrdinary(test);
    expect(test.script.seen).toEqual({ synchronousCommit: 'on', isolation: 'read committed', byteaOutput: 'hex' });
  });

  it.each([
    ['REPEATABLE READ', 'repeatable read'],
    ['SERIALIZABLE', 'serializable'],
  ] as const)('with isolationLevel %s the transaction has it', async (isolationLevel, isolation) => {
    const test = await startWith(adapter, { isolationLevel });
    await expectOrdinary(test);
    expect(test.script.seen).toMatchObject({ isolation });
  });

  it('with a schema the keys are in it', async () => {
    await observer.query(`create schema infra; create table infra.idempotency_keys (like public.idempotency_keys including all);
      create table infra.idempotency_steps (like public.idempotency_steps including all);
      create table infra.effects (id serial primary key, label text not null)`);
    const test = await startWith(adapter, { schema: 'infra' });
    expect((await test.post('/settings', 'k')).status).toBe(201);
    expect((await test.post('/settings', 'k')).headerLines).toContain('Idempotency-Replayed: true');
    expect(await rows('select key from infra.idempotency_keys')).toEqual([{ key: 'k' }]);
    expect(await rows('select label from infra.effects order by id')).toEqual([
      { label: 'order' },
      { label: 'message' },
    ]);
    expect(await keys()).toEqual([]);
  });

  it('with logging the statements of the handler are logged, and the body is not', async () => {
    const logged: string[] = [];
    const note = (first: unknown, second: unknown): void => void logged.push(`${String(first)} ${String(second)}`);
    const test = await startWith(adapter, {
      logging: true,
      logger: {
        logQuery: note,
        logQueryError: note,
        logQuerySlow: note,
        logSchemaBuild: note,
        logMigration: note,
        log: note,
      },
    });
    await expectOrdinary(test);
    expect(logged.filter((line) => line.includes('INSERT INTO "effects"')).length).toBeGreaterThan(0);
    expect(logged.filter((line) => /savepoint idempotency_\d+/.test(line)).length).toBeGreaterThan(0);
    expect(logged.filter((line) => line.includes('"bytes"'))).toEqual([]);
  });

  it('with pipelined connections', async () => {
    const test = await startWith(adapter, { extra: { pipeline: true } });
    await expectOrdinary(test);
    const request = test.post('/stop?then=return', 'killed');
    await terminate(await test.script.arrived());
    test.script.goOn();
    expect((await request).status).toBe(503);
    expect((await test.post('/plain', 'after')).status).toBe(201);
  });

  it('with pipelined connections, a claim that gets no answer ends in time, and its handler never runs', async () => {
    const test = await startWith(adapter, { extra: { pipeline: true } });
    await observer.query('begin; lock table idempotency_keys in access exclusive mode');
    const unanswered = await test.post('/plain', 'unanswered');
    await observer.query('rollback');
    expect(unanswered.status).toBe(503);
    await waitFor(async () => (await sessions()).every(({ state }) => state === 'idle'), { what: 'quiet' });
    expect([await keys(), await test.effects()]).toEqual([[], []]);
    expect((await test.post('/plain', 'unanswered')).status).toBe(201);
  });

  it.each(settings)('with %s', async (setting, seen) => {
    await observer.query(`alter database ${database.name} set ${setting}`);
    const test = await startWith(adapter, {});
    await expectOrdinary(test);
    expect(test.script.seen).toMatchObject(seen);
  });

  it('with synchronous_commit off it is on for the transaction, and only for it', async () => {
    await observer.query(`alter database ${database.name} set synchronous_commit = off`);
    // A second connection for the handler that asks for another key: that look is no part of its transaction.
    const test = await startWith(adapter, { poolSize: 2 });
    await expectOrdinary(test);
    expect(test.script.seen).toMatchObject({ synchronousCommit: 'on' });
    expect(await test.special.query(`select current_setting('synchronous_commit') as value`)).toEqual([
      { value: 'off' },
    ]);
  });

  it('with replicas all that a request reads comes from the primary', async () => {
    const replica = await createTestDatabase();
    const onReplica = new Client(replica.url);
    await onReplica.connect();
    try {
      await onReplica.query(`create table effects (id serial primary key, label text not null);
        insert into effects (label) values ('on the replica')`);
      const test = await startWith(adapter, {
        replication: {
          defaultMode: 'slave',
          master: { url: database.url },
          slaves: [{ url: replica.url }],
        },
      });
      const repository = test.special.getRepository(Effect);
      expect((await repository.find()).map(({ label }) => label)).toEqual(['on the replica']);
      await expectOrdinary(test);
      expect((await onReplica.query('select label from effects')).rows).toEqual([{ label: 'on the replica' }]);
      expect((await onReplica.query('select key from idempotency_keys')).rows).toEqual([]);
    } finally {
      for (const test of started.splice(0)) await test.close();
      await onReplica.end();
      await replica.drop();
    }
  });
});
