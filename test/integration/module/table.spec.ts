import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { TypeOrmModule } from '@nestjs/typeorm';
import { idempotencyMigrationsIn, IdempotencyModule } from '../../../src/index.js';
import { Effect } from '../../support/effect.entity.js';
import { createEmptyDatabase, queryOn } from '../../support/empty-database.js';
import { programOf } from '../../support/program.js';
import {
  bootError,
  bootWith,
  database,
  Effects,
  expectOneExecution,
  keyRows,
  Things,
  typeOrm,
  undo,
  withADatabaseEach,
} from './house.js';

withADatabaseEach();

const run = promisify(execFile);

describe('the table', () => {
  /** The command of the message, run by a shell as a person would paste it; only the program itself is another file. */
  async function runCommandOf(message: string): Promise<void> {
    const [, args] = /"npx nestjs-idempotency (.+?)" \(with DATABASE_URL/.exec(message) ?? [];
    expect(args).toMatch(/^migration:run/);
    await run('/bin/sh', ['-c', `node ${programOf('src/cli/main.ts')} ${args}`], {
      env: { ...process.env, DATABASE_URL: database.url },
    });
  }

  beforeEach(async () => {
    await queryOn(database.url, 'drop table idempotency_keys, idempotency_steps');
  });

  it.each([
    ['', {}, {}, 'idempotencyMigrations`'],
    [' in a schema', {}, { schema: 'infra' }, "idempotencyMigrationsIn('infra')`"],
    [' in an odd one', {}, { schema: `it's "odd" $HOME` }, 'idempotencyMigrationsIn(`it\'s "odd" $HOME`)`'],
    [' in the schema of the DataSource', { schema: 'shop' }, {}, 'idempotencyMigrations`'],
    [' elsewhere than the DataSource', { schema: 'shop' }, { schema: 'infra' }, "idempotencyMigrationsIn('infra')`"],
  ])('that is missing%s ends the start with the command that creates it', async (_, ofTypeOrm, options, migrations) => {
    await queryOn(database.url, 'create schema shop');
    const start = () =>
      bootWith({
        imports: [typeOrm(ofTypeOrm), TypeOrmModule.forFeature([Effect]), IdempotencyModule.forRoot(options)],
        controllers: [Things],
        providers: [Effects],
      });

    const error = await bootError(start());
    expect(error.message).toContain('IdempotencyModule: the table ');
    expect(error.message).toContain(`...${migrations}`);
    await runCommandOf(error.message);
    await expectOneExecution(await start());
  });

  it('goes into the schema of the option, by migrations of the DataSource, and is used there', async () => {
    const empty = await createEmptyDatabase();
    undo.push(empty.drop);
    const test = await bootWith({
      imports: [
        typeOrm({ url: empty.url, migrations: idempotencyMigrationsIn('infra'), migrationsRun: true }),
        TypeOrmModule.forFeature([Effect]),
        IdempotencyModule.forRoot({ schema: 'infra' }),
      ],
      controllers: [Things],
      providers: [Effects],
    });

    await expectOneExecution(test);
    expect(await keyRows('infra.idempotency_keys', empty.url)).toMatchObject([{ key: 'abc', response_status: 201 }]);
    expect(await queryOn(empty.url, `select to_regclass('public.idempotency_keys') as found`)).toEqual([
      { found: null },
    ]);
  });
});
