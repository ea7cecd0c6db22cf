import { Body, Controller, Post } from '@nestjs/common';
import { InjectDataSource } from '@nestjs/typeorm';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { DataSource } from 'typeorm';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import { queryOn } from '../support/empty-database.js';
import type { RawResponse } from '../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

@Controller()
class SessionController {
  constructor(@InjectDataSource() private readonly dataSource: DataSource) {}

  @Post('transaction')
  @Idempotent()
  async transaction(): Promise<unknown> {
    const { id } = await this.dataSource.getRepository(Effect).save({ label: 'done' });
    return { id, settings: await this.settings() };
  }

  @Post('step')
  @Idempotent({ mode: 'lease' })
  step(@IdempotencyContext() context: IdempotencyContext): Promise<unknown> {
    return context.transaction('only', () => this.transaction());
  }

  @Post('plain')
  async plain(@Body() { sql }: { sql: string }): Promise<unknown> {
    await this.dataSource.query(sql);
    return this.settings();
  }

  private async settings(): Promise<Record<string, string | null>> {
    const names = ['statement_timeout', 'lock_timeout', 'transaction_timeout', 'client_connection_check_interval'];
    const [row] = await this.dataSource.query<Record<string, string | null>[]>(
      `select ${names.map((name) => `current_setting('${name}', true) as ${name}`).join()}`,
    );
    return row!;
  }
}

const isReplay = ({ headerLines }: RawResponse) =>
  headerLines.some((line) => /^idempotency-replayed: true$/i.test(line));
const settingsIn = ({ body }: RawResponse) =>
  (JSON.parse(body.toString()) as { settings: Record<string, string> }).settings;

/** One connection: what is left in its session is met by whoever comes next. */
describe.each(ADAPTERS)('what was set in a pooled session before, on %s,', (adapter) => {
  let database: TestDatabase;
  let test: TestApp;

  beforeAll(async () => {
    database = await createTestDatabase();
    await queryOn(
      database.url,
      `create schema tenant_a;
       create table tenant_a.idempotency_keys (like public.idempotency_keys including all);
       create table tenant_a.idempotency_steps (like public.idempotency_steps including all);`,
    );
    test = await createTestApp({ adapter, databaseUrl: database.url, poolSize: 1, controllers: [SessionController] });
  });

  beforeEach(() => {
    test.logs.length = 0;
  });

  afterEach(async () => {
    await leave('reset all');
    await queryOn(database.url, 'truncate idempotency_keys, idempotency_steps, effects');
  });

  afterAll(async () => {
    await test.close();
    await database.drop();
  });

  const leave = (sql: string) => test.post('/plain', '', { sql });

  it('leads to no other table of keys, and is said once', async () => {
    for (const route of ['transaction', 'step']) {
      const first = await test.post(`/${route}`, route);
      await leave('set search_path to tenant_a, public');
      const retry = await test.post(`/${route}`, route);
      expect([first.status, retry.status, isReplay(retry)]).toEqual([201, 201, true]);
      expect((await test.post(`/${route}`, `${route} anew`)).status).toBe(201);
      await leave('reset all');
    }
    expect(await test.effects()).toHaveLength(4);
    expect(await queryOn(database.url, 'select from tenant_a.idempotency_keys')).toEqual([]);
    expect(test.logs).toEqual([expect.stringMatching(/tenant_a, public.*"\$user", public.*`scope`/)]);
  });

  it.each(['transaction', 'step'])('has limits that a %s has made its own end with it', async (route) => {
    const before = JSON.parse((await leave('select 1')).body.toString()) as Record<string, string>;
    const during = settingsIn(await test.post(`/${route}`, 'k'));
    const hasTransactionTimeout = before['transaction_timeout'] !== null;
    const checksConnection = before['client_connection_check_interval'] !== null && process.platform === 'linux';
    expect(during).toEqual({
      statement_timeout: '35s',
      lock_timeout: '0',
      transaction_timeout: hasTransactionTimeout ? '35s' : null,
      client_connection_check_interval: checksConnection ? '500ms' : before['client_connection_check_interval'],
    });
    expect(JSON.parse((await leave('select 1')).body.toString())).toEqual(before);
  });

  it.each(['transaction', 'step'])(
    'keeps limits of the application that are stricter than those of a %s',
    async (route) => {
      const before = JSON.parse((await leave('select 1')).body.toString()) as Record<string, string | null>;
      const canCheck = before['client_connection_check_interval'] !== null; // since PostgreSQL 14
      const strict = {
        statement_timeout: '7s',
        lock_timeout: '6s',
        ...(canCheck ? { client_connection_check_interval: '9s' } : {}),
      };
      await leave(
        Object.entries(strict)
          .map(([name, value]) => `set ${name} = '${value}'`)
          .join('; '),
      );
      expect(settingsIn(await test.post(`/${route}`, 'k'))).toMatchObject(strict);
      await leave(`set statement_timeout = '1min'`);
      expect(settingsIn(await test.post(`/${route}`, 'other'))).toMatchObject({ statement_timeout: '35s' });
    },
  );
});
