import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { PLACES, script, ScriptedController } from '../support/scripted-routes.js';
import { ADAPTERS, createTestApp, type TestApp } from '../support/test-app.js';

describe.each(ADAPTERS)('SQL that a handler writes itself, on %s', (adapter) => {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [ScriptedController] });
    await test.dataSource.query('create table notes (note text)');
  });

  afterAll(() => test.close());

  describe.each(PLACES)('in a %s', (place) => {
    it.each([
      "insert into notes values ('first; commit afterwards')",
      `insert into notes select note from (values ('a; rollback')) as "; end" (note)`,
      "do $$ begin insert into notes values ('in a block'); end $$",
      "do $a$ begin execute $$ insert into notes values ('; commit') $$; end $a$; select 1",
      'savepoint mine; insert into notes values (1); rollback to mine; insert into notes values (2); release mine',
      'prepare transaction as insert into notes values (1); execute transaction; deallocate transaction',
    ])('runs: %s', async (sql) => {
      await test.dataSource.query('delete from notes');
      const name = script(async (dataSource) => {
        await dataSource.query(sql);
        return 'done';
      });
      const response = await test.post(`/${place}/${name}`, randomUUID());
      expect([response.status, String(response.body)]).toEqual([201, 'done']);
      expect(await test.dataSource.query('select from notes')).toHaveLength(1);
    });

    it('runs what defines a routine by statements that are not quoted', async () => {
      await test.dataSource.query('delete from notes');
      const sql = `create or replace function noted(int) returns text begin atomic
          select case $1 when 1 then 'one' end; insert into notes values ('in a body') returning note; end;
        select noted(1)`;
      const name = script(async (dataSource) => {
        const [{ version }] = await dataSource.query(`select current_setting('server_version_num')::int4 as version`);
        const isKnown = version >= 140_000; // PostgreSQL 13 has only bodies that are quoted
        await dataSource.query(isKnown ? sql : "insert into notes values ('in a body')");
        return 'done';
      });
      expect((await test.post(`/${place}/${name}`, randomUUID())).status).toBe(201);
      expect(await test.dataSource.query('select from notes')).toHaveLength(1);
    });

    it.each([
      '/* /* */ */ commit',
      "select '$$'; end",
      String.raw`select '\'; commit; --'`,
      'select a$$ from (values (1)) b (a$$); rollback; --$$',
      "commit prepared 'x'",
      "prepare transaction 'x'",
      'rollback and chain',
      'start transaction',
    ])('refuses before it runs: %s', async (sql) => {
      await test.dataSource.query('delete from notes');
      const met: string[] = [];
      const name = script(async (dataSource, manager) => {
        await manager.query("insert into notes values ('kept')");
        const runner = dataSource.createQueryRunner();
        const tries = [() => dataSource.query(sql), () => manager.query(sql), () => runner.stream(sql)];
        for (const attempt of tries) {
          await attempt().catch((error: Error) => met.push(error.message));
        }
        await runner.release();
        return 'done';
      });
      const response = await test.post(`/${place}/${name}`, randomUUID());
      expect(response.status).toBe(201);
      expect(met).toEqual(Array(3).fill(expect.stringContaining('would end the transaction')));
      expect(await test.dataSource.query('select from notes')).toHaveLength(1);
    });
  });

  it('holds the process up no longer than its length asks for', async () => {
    const name = script((dataSource) => dataSource.query(`select length('${';'.repeat(1_000_000)}')`));
    const response = await test.post(`/transaction/${name}`, randomUUID());
    expect(JSON.parse(String(response.body))).toEqual([{ length: 1_000_000 }]);
  });
});
