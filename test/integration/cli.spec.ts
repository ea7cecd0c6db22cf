import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { describeFailure } from '../../src/cli/failure.js';
import { ProgressBar } from '../../src/cli/progress-bar.js';
import { runCommand } from '../../src/cli/run-command.js';
import { ExpiredKeys } from '../../src/postgres/statements/expired-keys.js';
import { catalogueOf } from '../support/catalogue.js';
import { runCli, runShell } from '../support/cli.js';
import { createTestDatabase, databaseUrl, type TestDatabase } from '../support/database.js';
import { createEmptyDatabase, queryOn } from '../support/empty-database.js';
import { waitFor } from '../support/wait-for.js';

const NAMES = [
  'CreateIdempotencyKeys1763683200000',
  'AddLeasesAndSteps1763769600000',
  'AddAttention1763856000000',
  'AddTraceContext1763942400000',
];

/** What a command prints that says something of each migration. */
const each = (what: string): string => NAMES.map((name) => `${what} ${name}\n`).join('');
const PASSWORD = 'hunter2-of-alice';

/** Nothing listens on port 1. */
const UNREACHABLE = `postgres://alice:${PASSWORD}@127.0.0.1:1/shop`;

describe('the migration commands', () => {
  let database: TestDatabase;

  beforeEach(async () => {
    database = await createEmptyDatabase();
  });

  afterEach(async () => {
    await database.drop();
  });

  it('show, apply and revert, and say when there is nothing to do', async () => {
    const results = [];
    for (const command of ['show', 'run', 'run', 'show', 'sql', ...NAMES.map(() => 'revert'), 'revert']) {
      results.push(await runCli([`migration:${command}`], { DATABASE_URL: database.url }));
    }
    expect(results).toEqual(
      [
        each('[ ]'),
        each('applied'),
        'nothing to apply\n',
        each('[X]'),
        '-- nothing to apply\n',
        ...NAMES.map((name) => `reverted ${name}\n`).toReversed(),
        'nothing to revert\n',
      ].map((stdout) => ({ exitCode: 0, stdout, stderr: '' })),
    );
  });

  it('print SQL that makes the same tables and the same record, and run none of it', async () => {
    const other = await createEmptyDatabase();
    try {
      const sql = await runCli(['migration:sql', '--url', database.url]);
      await expect(catalogueOf(database.url)).resolves.toBeUndefined();

      await queryOn(database.url, sql.stdout);
      await runCli(['migration:run', '--url', other.url]);
      await expect(catalogueOf(database.url)).resolves.toEqual(await catalogueOf(other.url));

      const shown = await runCli(['migration:show', '--url', database.url]);
      expect(shown.stdout).toBe(each('[X]'));
    } finally {
      await other.drop();
    }
  });

  it('say for whom they wait, and are applied once that one is done', async () => {
    await runCli(['migration:run', '--url', database.url]);
    await runCli(['migration:revert', '--url', database.url]);
    const reader = new Client({ connectionString: database.url, application_name: 'pg_dump' });
    await reader.connect();
    await reader.query('begin');
    await reader.query('select from idempotency_keys');
    const running = runCli(['migration:run', '--url', database.url]);
    const hasTried = `select from pg_stat_activity where application_name = 'nestjs-idempotency' and wait_event_type = 'Lock'`;
    const isTrying = async (): Promise<boolean> => (await queryOn(database.url, hasTried)).length > 0;
    await waitFor(isTrying, { what: 'a try' });
    await waitFor(async () => !(await isTrying()), { what: 'its end' });
    await waitFor(isTrying, { what: 'the next try, when the first has been told of' });
    await reader.end();
    expect(await running).toMatchObject({
      exitCode: 0,
      stdout: `applied ${NAMES.at(-1)!}\n`,
      stderr: expect.stringMatching(/^nestjs-idempotency: waiting for the session \d+ \(pg_dump\)/),
    });
  });

  it('take --schema, whatever its name', async () => {
    const schema = 'My "odd" schema';
    await runCli(['migration:run', '--url', database.url, '--schema', schema]);

    await expect(catalogueOf(database.url, schema)).resolves.toBeDefined();
    await expect(catalogueOf(database.url)).resolves.toBeUndefined();
    await expect(runCli(['migration:show', '--url', database.url, '--schema', schema])).resolves.toMatchObject({
      stdout: each('[X]'),
    });
  });

  it('leave a table alone that they did not make, and name the remedy', async () => {
    await queryOn(database.url, 'create table idempotency_keys (something_else text)');

    const result = await runCli(['migration:run', '--url', database.url]);
    expect(result).toMatchObject({ exitCode: 1, stdout: '' });
    expect(result.stderr).toContain('relation "idempotency_keys" already exists');
    expect(result.stderr).toContain('--schema');
  });
});

describe('purge', () => {
  let database: TestDatabase;

  beforeEach(async () => {
    database = await createTestDatabase();
  });

  afterEach(async () => {
    await database.drop();
  });

  /** Back-dated rather than waited for. */
  async function insertKeys(count: number, expiresIn: string): Promise<void> {
    await queryOn(
      database.url,
      `insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
         response_status, response_headers, response_body, response_bytes, created_at, expires_at)
       select '', gen_random_uuid()::text, decode(repeat('00', 32), 'hex'), 1, 'POST', '/payments', gen_random_uuid(),
         201, '[]', '', 0, clock_timestamp() - interval '2 days', clock_timestamp() + $2::interval
       from generate_series(1, $1::int)`,
      [count, expiresIn],
    );
  }

  async function countKeys(): Promise<number | undefined> {
    const [row] = await queryOn<{ count: number }>(database.url, 'select count(*)::int as count from idempotency_keys');
    return row?.count;
  }

  it('deletes what is expired, in several batches, and nothing else', async () => {
    await insertKeys(5, '-1 second');
    await insertKeys(3, '1 hour');

    await expect(runCli(['purge', '--url', database.url, '--batch-size', '2'])).resolves.toEqual({
      exitCode: 0,
      stdout: 'deleted 5 expired keys\n',
      stderr: '',
    });
    await expect(countKeys()).resolves.toBe(3);
  });

  it('ends when the last batch was just full', async () => {
    await insertKeys(4, '-1 second');
    await expect(runCli(['purge', '--url', database.url, '--batch-size', '2'])).resolves.toMatchObject({
      stdout: 'deleted 4 expired keys\n',
    });
  });

  it('leaves the work to another purge that is at it', async () => {
    await insertKeys(2, '-1 second');
    const other = new Client(database.url);
    await other.connect();
    try {
      // The lock ends with the transaction of the batch, which stays open here.
      await other.query('begin');
      const elsewhere = { query: async (sql: string, values?: unknown[]) => (await other.query(sql, values)).rows };
      await new ExpiredKeys(elsewhere, 'public').purgeBatch(1);

      await expect(runCli(['purge', '--url', database.url])).resolves.toEqual({
        exitCode: 0,
        stdout: 'deleted 0 expired keys\nstopped there: another purge is at work\n',
        stderr: '',
      });
    } finally {
      await other.end();
    }
  });

  it('says how to make the table when there is none', async () => {
    const result = await runCli(['purge', '--url', database.url, '--schema', 'elsewhere']);
    expect(result).toMatchObject({ exitCode: 1, stdout: '' });
    expect(result.stderr).toContain('migration:run');
  });

  it('draws its progress over one line of a terminal, and nothing where there is none', () => {
    const written: string[] = [];
    const write = (text: string) => written.push(text);

    const bar = new ProgressBar({ isTTY: true, write }, 200);
    for (const done of [0, 100, 250]) bar.update(done);
    bar.clear();
    expect(written).toEqual([
      '\r\u001B[K[..............................]   0 % 0/200',
      '\r\u001B[K[###############...............]  50 % 100/200',
      '\r\u001B[K[##############################] 100 % 250/200',
      '\r\u001B[K',
    ]);

    const silent = new ProgressBar({ write }, 200);
    silent.update(100);
    silent.clear();
    expect(written).toHaveLength(4);
  });
});

describe('--data-source', () => {
  const require = createRequire(import.meta.url);
  let database: TestDatabase;
  let folder: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'idempotency-cli-'));
  });

  afterAll(async () => {
    await rm(folder, { recursive: true });
  });

  beforeEach(async () => {
    database = await createEmptyDatabase();
  });

  afterEach(async () => {
    await database.drop();
  });

  /** A module of an application; it lies outside the checkout, so that TypeORM goes by its path. */
  async function write(content: string, extension = 'mjs'): Promise<string> {
    const file = join(folder, `${randomUUID()}.${extension}`);
    const typeorm = JSON.stringify(require.resolve('typeorm'));
    const load = extension === 'cjs' ? `require(${typeorm})` : `(await import(${typeorm})).default`;
    await writeFile(file, `const { DataSource } = ${load};\n${content}`);
    return file;
  }

  function dataSource(more = ''): string {
    return `new DataSource({ type: 'postgres', url: ${JSON.stringify(database.url)}, ${more} })`;
  }

  it.each([
    ['as default', 'mjs', 'export default '],
    ['by a name', 'mjs', 'export const AppDataSource = '],
    ['as a promise', 'mjs', 'export default (async (dataSource) => dataSource)'],
    ['by CommonJS', 'cjs', 'module.exports.AppDataSource = '],
  ])('connects as the DataSource that a module exports %s', async (_, extension, exporting) => {
    const file = await write(`${exporting}(${dataSource()});`, extension);
    await expect(runCli(['migration:run', '--data-source', file])).resolves.toEqual({
      exitCode: 0,
      stdout: each('applied'),
      stderr: '',
    });
  });

  it("takes its connection and schema alone: the application's migrations and entities are not run", async () => {
    await queryOn(database.url, 'create schema shop');
    const file = await write(`
      class CreateOrders1700000000000 { async up(runner) { await runner.query('create table orders (id int)'); } }
      export default ${dataSource(`schema: 'shop', migrations: [CreateOrders1700000000000], migrationsRun: true, dropSchema: true`)};
    `);
    await runCli(['migration:run', '--data-source', file]);

    const tables = await queryOn<{ name: string }>(
      database.url,
      `select tablename as name from pg_tables where schemaname = 'shop' order by tablename`,
    );
    expect(tables.map(({ name }) => name)).toEqual(['idempotency_keys', 'idempotency_migrations', 'idempotency_steps']);
  });

  it('ends, though the module itself had connected', async () => {
    const file = await write(`export default await ${dataSource()}.initialize();`);
    await expect(runCli(['migration:show', '--data-source', file])).resolves.toMatchObject({ exitCode: 0 });
  });

  it('ends, though the module has left something behind that would go on', async () => {
    const file = await write(`setInterval(() => undefined, 1_000); export default ${dataSource()};`);
    await expect(runCli(['migration:run', '--data-source', file])).resolves.toEqual({
      exitCode: 0,
      stdout: each('applied'),
      stderr: '',
    });
  });

  it("loads the repository's own ormconfig.ts", async () => {
    const result = await runCli(['migration:show', '--data-source', 'ormconfig.ts'], {
      DATABASE_URL: database.url,
      NODE_OPTIONS: '--disable-warning=DEP0205 --import @swc-node/register/esm-register', // that warning is the loader's, on Node.js 26
    });
    expect(result).toEqual({ exitCode: 0, stdout: each('[ ]'), stderr: '' });
  });

  it.each([
    ['exports none', `export const answer = 42;`, 2, 'exports no TypeORM DataSource'],
    [
      'exports two',
      `export const one = new DataSource({ type: 'postgres' }); export const two = new DataSource({ type: 'postgres' });`,
      2,
      'several DataSources',
    ],
    [
      'is of another database',
      `export default { initialize() {}, options: { type: 'mysql' } };`,
      2,
      'only "postgres" will do',
    ],
    ['fails to load', `throw new Error('cannot use ${UNREACHABLE}');`, 1, 'failed to load'],
    [
      'names a missing schema',
      `export default new DataSource({ type: 'postgres', url: process.env.DATABASE_URL, schema: 'nowhere' });`,
      1,
      'name it with --schema',
    ],
  ])('refuses a module that %s', async (_, content, exitCode, message) => {
    const file = await write(content);
    const result = await runCli(['migration:run', '--data-source', file], { DATABASE_URL: database.url });
    expect(result).toMatchObject({ exitCode, stdout: '' });
    expect(result.stderr).toContain(message);
    expect(result.stderr).not.toContain(PASSWORD);
  });

  it('refuses a file that is not there', async () => {
    const result = await runCli(['migration:run', '--data-source', join(folder, 'missing.mjs')]);
    expect(result).toMatchObject({ exitCode: 2, stdout: '' });
    expect(result.stderr).toContain('there is no file');
  });
});

describe('the command line', () => {
  it('prints its help, with commands, options and exit codes', async () => {
    const result = await runCli(['--help']);
    expect(result).toMatchObject({ exitCode: 0, stderr: '' });
    for (const word of [
      'migration:run',
      'migration:revert',
      'migration:show',
      'migration:sql',
      'purge',
      'DATABASE_URL',
    ]) {
      expect(result.stdout).toContain(word);
    }
    expect(result.stdout).toMatch(/Exit codes:\n {2}0 .*\n {2}1 .*\n {2}2 /);
  });

  it('prints its version', async () => {
    const result = await runCli(['--version']);
    expect(result.stdout).toMatch(/^\d+\.\d+\.\d+/);
    expect(result.exitCode).toBe(0);
  });

  it.each([
    ['no command', [], 'No command'],
    ['an unknown command', ['migrate'], 'Unknown command'],
    ['a second command', ['purge', 'migration:run'], 'One command at a time'],
    ['an unknown option', ['migration:run', '--uri', UNREACHABLE], '--uri'],
    ['a URL without its option', [UNREACHABLE], 'Unknown command'],
    ['two databases', ['migration:run', '--url', UNREACHABLE, '--data-source', 'x.mjs'], 'not both'],
    [
      'a schema that PostgreSQL would cut off',
      ['migration:run', '--url', UNREACHABLE, '--schema', 'ü'.repeat(32)],
      '63 bytes',
    ],
    ['an empty schema', ['migration:run', '--url', UNREACHABLE, '--schema', ''], '--schema is empty'],
    [
      'a URL of another database',
      ['purge', '--url', `mysql://alice:${PASSWORD}@127.0.0.1/shop`],
      'not a PostgreSQL URL',
    ],
    [
      'a password that breaks the URL',
      ['purge', '--url', `postgres://alice:1/${PASSWORD}@127.0.0.1/shop`],
      'Percent-encode',
    ],
    [
      'a percent sign that encodes nothing',
      ['purge', '--url', `postgres://alice:${PASSWORD}%@127.0.0.1/shop`],
      'Percent-encode',
    ],
    ['a port that is none', ['purge', '--url', `postgres://alice:${PASSWORD}@127.0.0.1:x/shop`], 'Percent-encode'],
    ['a batch of nothing', ['purge', '--url', UNREACHABLE, '--batch-size', '0'], 'from 1 to 100000'],
    ['a batch of half a row', ['purge', '--url', UNREACHABLE, '--batch-size', '0.5'], 'from 1 to 100000'],
    ['a batch outside purge', ['migration:run', '--url', UNREACHABLE, '--batch-size', '10'], 'of purge alone'],
  ])('refuses %s as wrong usage, without the password', async (_, args, message) => {
    const failure = describeFailure(await runCommand(args).catch((error: unknown) => error));
    expect(failure).toEqual({ exitCode: 2, message: expect.stringContaining(message) });
    expect(failure.message).toContain('--help');
    expect(failure.message).not.toContain(PASSWORD);
  });

  it.each([
    [
      'a password whose special characters are encoded',
      `postgres://alice:p%40s%2Fs%23@127.0.0.1:1/shop`,
      'ECONNREFUSED',
    ],
    [
      'a stray @ in the password, which everybody reads alike',
      `postgres://alice:p@ss@127.0.0.1:1/shop`,
      'ECONNREFUSED',
    ],
    ['a Unix socket, which has no host', `postgres://alice@/shop?host=/nowhere`, 'ENOENT'],
  ])('takes a URL with %s', async (_, url, message) => {
    const failure = describeFailure(await runCommand(['purge', '--url', url]).catch((error: unknown) => error));
    expect(failure).toEqual({ exitCode: 1, message: expect.stringContaining(message) });
  });

  it('goes by the PG variables where there is no URL', async () => {
    const database = await createEmptyDatabase();
    const { hostname, port, username, password, pathname } = new URL(database.url);
    const env = {
      PGHOST: hostname,
      PGPORT: port,
      PGUSER: decodeURIComponent(username),
      PGPASSWORD: decodeURIComponent(password),
      PGDATABASE: pathname.slice(1),
    };
    expect(await runCli(['migration:show'], env)).toEqual({ exitCode: 0, stdout: each('[ ]'), stderr: '' });
    expect((await runCli(['migration:show'], { PGHOST: '127.0.0.1', PGPORT: '1' })).stderr).toContain('ECONNREFUSED');
    await database.drop();
  });

  it('goes by the first of several hosts that answers and takes writes', async () => {
    const database = await createEmptyDatabase();
    const { host } = new URL(database.url);
    const several = database.url.replace(host, `127.0.0.1:1,${host},127.0.0.1:2`);
    const url = `${several}${several.includes('?') ? '&' : '?'}target_session_attrs=read-write`;
    expect(await runCli(['migration:show', '--url', url])).toEqual({ exitCode: 0, stdout: each('[ ]'), stderr: '' });
    const none = await runCli(['migration:show', '--url', `postgres://alice:${PASSWORD}@127.0.0.1:1,127.0.0.1:2/shop`]);
    expect(none).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(/127\.0\.0\.1:1.*127\.0\.0\.1:2/) });
    expect(none.stderr).not.toContain(PASSWORD);
    await database.drop();
  });

  it.each(['true', 'head -n 1'])('is done, and says nothing else, where its output goes to `%s`', async (reader) => {
    const database = await createEmptyDatabase();
    const { stdout, stderr, exitCode } = await runShell(
      `"$NODE" "$CLI" migration:run | ${reader}; exit "\${PIPESTATUS[0]}"`,
      { DATABASE_URL: database.url },
    );
    expect([exitCode, stderr]).toEqual([0, '']);
    expect(each('applied')).toContain(stdout);
    expect(await catalogueOf(database.url)).toBeDefined();
    await database.drop();
  });

  it.each([
    ['no command', [], 'There are: migration:run'],
    ['no database', ['migration:run'], 'set DATABASE_URL'],
  ])('exits with 2 when there is %s', async (_, args, message) => {
    await expect(runCli(args)).resolves.toEqual({ exitCode: 2, stdout: '', stderr: expect.stringContaining(message) });
  });

  it('fails in words where no database answers, without the password', async () => {
    const result = await runCli(['migration:run'], { DATABASE_URL: UNREACHABLE });
    expect(result).toMatchObject({ exitCode: 1, stdout: '' });
    expect(result.stderr).toContain('ECONNREFUSED');
    expect(result.stderr).toContain('is PostgreSQL running');
    expect(result.stderr).not.toContain(PASSWORD);
  });

  it('fails in words where the database does not exist, without the password', async () => {
    const url = new URL(databaseUrl(process.env['TEST_DATABASE_URL']!, 'idempotency_nowhere'));
    url.password ||= PASSWORD;
    const result = await runCli(['migration:show', '--url', url.href]);
    expect(result).toMatchObject({ exitCode: 1, stdout: '' });
    expect(result.stderr).toContain('Create the database');
    expect(result.stderr).not.toContain(`:${url.password}`);
  });
});
