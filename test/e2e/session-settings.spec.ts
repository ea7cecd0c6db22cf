import { randomUUID } from 'node:crypto';
import { Controller, HttpException, Post } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import type { DataSource, EntityManager } from 'typeorm';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import type { RawResponse } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

/** What a handler does in its session, beside its effect. */
let script: (manager: EntityManager) => Promise<unknown>;

const TENANT = `tenant_${randomUUID().replaceAll('-', '')}`;
const EFFECT = `insert into public.effects (label) values ('done')`;

@Controller()
class SessionController {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('transaction')
  @Idempotent()
  async transaction(): Promise<string> {
    await script(this.dataSource.manager);
    return 'caf\u00e9';
  }

  @Post('inner')
  @Idempotent()
  async inner(): Promise<string> {
    await this.dataSource.transaction((manager) => script(manager));
    return 'caf\u00e9';
  }

  @Post('stored')
  @Idempotent({ storeErrors: (status) => status === 402 })
  async stored(): Promise<never> {
    await script(this.dataSource.manager).catch(() => undefined);
    throw new HttpException('caf\u00e9', 402);
  }

  @Post('step')
  @Idempotent({ mode: 'lease' })
  step(@IdempotencyContext() context: IdempotencyContext): Promise<string> {
    return context.transaction('only', async (manager) => {
      await script(manager);
      return 'caf\u00e9';
    });
  }
}

const isReplay = ({ headerLines }: RawResponse) =>
  headerLines.some((line) => /^idempotency-replayed: true$/i.test(line));

describe.each(ADAPTERS)('what a handler sets in its session, on %s,', (adapter) => {
  const tenant = `${TENANT}_${adapter}`;
  let database: TestDatabase;
  let observer: Client;
  let test: TestApp;

  beforeAll(async () => {
    database = await createTestDatabase();
    observer = new Client(database.url);
    await observer.connect();
    test = await createTestApp({ adapter, databaseUrl: database.url, controllers: [SessionController] });
    await observer.query(
      `create role ${tenant};
       create schema tenant_a;
       create table tenant_a.idempotency_keys (like public.idempotency_keys including all);
       create table tenant_a.idempotency_steps (like public.idempotency_steps including all);
       grant insert on effects to ${tenant};
       grant usage on sequence effects_id_seq to ${tenant};

       create table public.noted (n serial, what text, role text, path text, durability text, statements text, locks text);
       create function note() returns trigger language plpgsql security invoker as $$ begin
         insert into public.noted (what, role, path, durability, statements, locks)
         values (tg_argv[0], current_user, current_setting('search_path'), current_setting('synchronous_commit'),
           current_setting('statement_timeout'), current_setting('lock_timeout'));
         return null;
       end $$;
       grant insert on noted to ${tenant};
       grant usage on sequence noted_n_seq to ${tenant};
       create trigger note after insert on idempotency_keys
         for each row when (new.response_status is not null) execute function note('record');
       create trigger note after insert on idempotency_steps for each row execute function note('record');
       create constraint trigger note after insert on effects deferrable initially deferred
         for each row execute function note('deferred');`,
    );
  });

  beforeEach(() => {
    test.logs.length = 0;
    script = (manager) => manager.query(EFFECT);
  });

  afterEach(async () => {
    await observer.query('truncate idempotency_keys, idempotency_steps, effects, noted');
  });

  afterAll(async () => {
    await observer.query(`drop owned by ${tenant}; drop role ${tenant}`);
    await observer.end();
    await test.close();
    await database.drop();
  });

  const noted = async (what: string) => {
    const { rows } = await observer.query<object>(
      'select role, path, durability, statements, locks from noted where what = $1',
      [what],
    );
    return rows;
  };

  const set = (sql: string) => {
    script = async (manager) => {
      await manager.query(sql.replaceAll('TENANT', tenant));
      await manager.query(EFFECT);
    };
  };

  const SETTINGS = [
    'set local role TENANT',
    'set local search_path to tenant_a',
    `set local search_path to ''`,
    'set local synchronous_commit = off',
    `set local statement_timeout = '3s'`,
    `set local lock_timeout = '1ms'`,
    'reset all',
    `set local client_encoding = 'LATIN1'`,
    `set local datestyle = 'German'; set local intervalstyle = 'sql_standard'; set local timezone = 'Pacific/Chatham'`,
    'set local extra_float_digits = -15',
    'set local session authorization TENANT',
    'set constraints all deferred',
  ];

  describe.each(['transaction', 'inner', 'step'])('by the way of %s', (route) => {
    it.each(SETTINGS)('does not reach the record: %s', async (sql) => {
      set(sql);
      const first = await test.post(`/${route}`, 'k');
      const retry = await test.post(`/${route}`, 'k');
      expect([first.status, first.body.toString()]).toEqual([201, 'caf\u00e9']);
      expect([retry.status, retry.body, isReplay(retry)]).toEqual([201, first.body, true]);
      expect(await noted('record')).toEqual([
        { role: 'postgres', path: '"$user", public', durability: 'on', statements: '35s', locks: '0' },
      ]);
      expect(await test.effects()).toEqual(['done']);
      expect(test.logs).toEqual([]);
    });

    it('is what deferred triggers of its own run with, but for its time limits', async () => {
      set(`set local role TENANT; set local search_path to tenant_a; set local lock_timeout = '1ms'`);
      expect((await test.post(`/${route}`, 'k')).status).toBe(201);
      expect(await noted('deferred')).toMatchObject([{ role: tenant, path: 'tenant_a', locks: '0' }]);
    });

    it('and must not be waited for by the record does not fail it', async () => {
      await observer.query(
        `create function rest() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return null; end $$;
         create trigger rest after insert on idempotency_keys for each statement execute function rest();
         create trigger rest after insert on idempotency_steps for each statement execute function rest();`,
      );
      try {
        set(`set local statement_timeout = '200ms'`);
        expect((await test.post(`/${route}`, 'k')).status).toBe(201);
        expect(isReplay(await test.post(`/${route}`, 'k'))).toBe(true);
      } finally {
        await observer.query('drop function rest() cascade');
      }
    });

    it('is none of the locks that it could not free', async () => {
      script = async (manager) => {
        await manager.query('select pg_advisory_lock(4711)');
        try {
          await manager.query('select 1 / 0');
        } finally {
          await manager.query('select pg_advisory_unlock(4711)'); // fails, for its transaction has failed
        }
      };
      expect((await test.post(`/${route}`, 'k')).status).toBe(500);
      expect(await sessionLocks()).toBe(0);
    });
  });

  const sessionLocks = async () => {
    const { rows } = await observer.query(
      `select from pg_locks where locktype = 'advisory' and objid = 4711
         and database = (select oid from pg_database where datname = current_database())`,
    );
    return rows.length;
  };

  it('does not reach an error that is stored, nor do its locks stay', async () => {
    script = async (manager) => {
      await manager.query('select pg_advisory_lock(4711)');
      await manager.query(`set local role ${tenant}; set local synchronous_commit = off`);
      await manager.query('select 1 / 0');
    };
    const first = await test.post('/stored', 'k');
    const retry = await test.post('/stored', 'k');
    expect([first.status, retry.status, isReplay(retry)]).toEqual([402, 402, true]);
    expect(retry.body).toEqual(first.body);
    expect(await noted('record')).toMatchObject([{ durability: 'on' }]);
    expect(await sessionLocks()).toBe(0);
  });

  it('keeps a synchronous_commit that is stronger than that of the session', async () => {
    set('set local synchronous_commit = remote_apply');
    expect((await test.post('/transaction', 'k')).status).toBe(201);
    expect(await noted('record')).toMatchObject([{ durability: 'remote_apply' }]);
  });
});
