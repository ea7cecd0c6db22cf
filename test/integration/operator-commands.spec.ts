import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { describeFailure } from '../../src/cli/failure.js';
import { runCommand } from '../../src/cli/run-command.js';
import type { Finding } from '../../src/cli/findings.js';
import { idempotencyMigrations } from '../../src/index.js';
import { Diagnosis } from '../../src/postgres/statements/diagnosis.js';
import { ObservedKeys } from '../../src/postgres/statements/observed-keys.js';
import type { KeyStatistics } from '../../src/postgres/statements/operator-store.js';
import { type CliResult, runCliHere } from '../support/cli.js';
import { storedAs, testAttempt } from '../support/attempts.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { createEmptyDatabase, queryOn } from '../support/empty-database.js';
import { turnTablesInto } from '../support/table-kinds.js';

const RESPONSE_BODY = 'what the client was answered';

/** Completed, expired, interrupted, released and running: one key of each. */
const FIXTURE = `
  insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id, execution_id, attempt,
    lease_expires_at, attention, response_status, response_headers, response_body, response_bytes, created_at, expires_at)
  select scope, key, sha256('x'), 1, method, path, md5(key)::uuid, case when attempt > 0 then md5(key)::uuid end,
    nullif(attempt, 0), now() + lease * interval '1 s', attention::jsonb, status,
    case when status > 0 then '[["Content-Type", "text/plain"]]'::jsonb end, case when status > 0 then convert_to($1, 'UTF8') end,
    case when status > 0 then octet_length(convert_to($1, 'UTF8')) end, now() - age * interval '1 s',
    case when expires is null then 'infinity' else now() + expires * interval '1 s' end
  from (values
    ('ada', 'done',   'POST', '/payments',    0, null, null, 201,  60,     3600),
    ('ada', 'old',    'POST', '/payments/17', 0, null, null, 201,  172800, -7200),
    ('ada', 'stuck',  'POST', '/payments/18', 2, -60, '{"reason":"effect-unknown","steps":["charge"],"detail":"no answer"}', null, 90000, null),
    ('bob', 'gave up','PUT',  '/orders/1',    1, null, null, null, 10,     3600),
    ('bob', 'works',  'PUT',  '/orders/2',    1, 600,  null, null, 10,     3600)
  ) as rows (scope, key, method, path, attempt, lease, attention, status, age, expires)`;

describe('the commands of an operator', () => {
  let database: TestDatabase;

  beforeAll(async () => {
    database = await createTestDatabase();
  });

  beforeEach(async () => {
    await queryOn(database.url, 'truncate idempotency_keys, idempotency_steps');
    await queryOn(database.url, FIXTURE, [RESPONSE_BODY]);
    await queryOn(
      database.url,
      `insert into idempotency_steps (execution_id, name, position, attempt, outcome, scope, key, created_at)
       values (md5('stuck')::uuid, 'reserve', 1, 1, '{"returned": "a secret"}', 'ada', 'stuck', now()),
              (md5('stuck')::uuid, 'charge', 2, 2, '{"threw": {"status": 500, "response": ""}, "lost": "no answer"}', 'ada', 'stuck', now())`,
    );
  });

  afterAll(() => database.drop());

  const run = (...args: string[]): Promise<CliResult> => runCliHere([...args, '--url', database.url]);
  const json = async (...args: string[]): Promise<unknown> => JSON.parse((await run(...args, '--json')).stdout);
  const names = async (...args: string[]) =>
    ((await json('list', ...args)) as { keys: { key: string }[] }).keys.map(({ key }) => key);

  it('stats tells what there is, how old it is, where it came from and what it takes', async () => {
    expect(await json('stats')).toEqual({
      rows: 5,
      states: { completed: 1, running: 1, interrupted: 1, released: 1, 'steps-changed': 0, observed: 0 },
      expired: 1,
      purgeLagSeconds: expect.closeTo(7_200, -2),
      oldestInFlightSeconds: expect.closeTo(10, -2),
      ages: [
        { upToSeconds: 3_600, keys: 3 },
        { upToSeconds: 21_600, keys: 0 },
        { upToSeconds: 86_400, keys: 0 },
        { upToSeconds: 604_800, keys: 2 },
        { upToSeconds: null, keys: 0 },
      ],
      routes: [
        { method: 'POST', path: '/payments/:id', keys: 2 },
        { method: 'PUT', path: '/orders/:id', keys: 2 },
        { method: 'POST', path: '/payments', keys: 1 },
      ],
      scopes: [
        { scope: 'ada', keys: 3 },
        { scope: 'bob', keys: 2 },
      ],
      disk: {
        keysBytes: expect.any(Number),
        indexesBytes: expect.any(Number),
        stepsBytes: expect.any(Number),
        deadRows: expect.any(Number),
      },
    });
    expect((await run('stats')).stdout).toContain('keys\t5\ncompleted\t1\n');
  });

  it('list finds keys by state, route and scope, but for expired ones, and goes on page by page', async () => {
    await expect(names()).resolves.toEqual(['done', 'stuck', 'gave up', 'works']);
    await expect(names('--expired')).resolves.toEqual(['done', 'old', 'stuck', 'gave up', 'works']);
    await expect(names('--state', 'interrupted')).resolves.toEqual(['stuck']);
    await expect(names('--method', 'PUT', '--path', '/orders/2')).resolves.toEqual(['works']);
    await expect(names('--scope', 'ada')).resolves.toEqual(['done', 'stuck']);
    const page = (await json('list', '--limit', '3')) as { keys: unknown[]; next: string };
    await expect(names('--after', page.next, '--limit', '3')).resolves.toEqual(['works']);
  });

  it('a key that waits for an operator is told to expire never', async () => {
    const { stdout } = await run('list', '--state', 'interrupted');
    expect(stdout).toMatch(/\bstuck\t.*\tnever\n$/);
    expect((await run('show', 'ada', 'stuck')).stdout).toMatch(/^expires: +never$/m);
    expect(await json('show', 'ada', 'stuck')).toMatchObject({ expiresAt: null });
  });

  it('list leaves out what would steer a terminal', async () => {
    await queryOn(database.url, String.raw`update idempotency_keys set key = E'\x1b[2J' where key = 'done'`);
    const { stdout } = await run('list', '--scope', 'ada');
    expect(stdout).toContain(String.raw`ada	\u{1b}[2J	completed	POST /payments	201`);
  });

  it('show tells of one key, with its steps, and of its body only when it is asked to', async () => {
    const shown = await run('show', 'ada', 'stuck');
    expect(shown).toMatchObject({ exitCode: 0, stderr: '' });
    for (const fact of [
      'interrupted',
      'effect-unknown (charge): no answer',
      'reserve\t1\t1\treturned',
      'charge\t2\t2\tlost',
    ]) {
      expect(shown.stdout).toContain(fact);
    }
    expect(shown.stdout).not.toContain('a secret');
    const plain = await run('show', 'ada', 'done');
    expect(plain.stdout).not.toContain(RESPONSE_BODY);
    const whole = await run('show', 'ada', 'done', '--body');
    expect(whole.stdout).toContain(`Content-Type: text/plain\n\n${RESPONSE_BODY}\n`);
    expect(await json('show', 'ada', 'done')).toMatchObject({ key: 'done', status: 201, body: null, bodyKept: true });
    expect(await json('show', 'ada', 'done', '--body')).toMatchObject({
      body: Buffer.from(RESPONSE_BODY).toString('base64'),
    });
    await expect(run('show', 'ada', 'none')).resolves.toMatchObject({ exitCode: 3 });
  });

  it('resolve records the answer of an operation that waits, and of no other', async () => {
    const args = ['--status', '201', '--response', '{"id":1}', '--yes'];
    await expect(run('resolve', 'ada', 'stuck', ...args)).resolves.toEqual({
      exitCode: 0,
      stdout: 'done\n',
      stderr: '',
    });
    expect(await json('show', 'ada', 'stuck', '--body')).toMatchObject({
      state: 'completed',
      status: 201,
      headers: [['Content-Type', 'application/json; charset=utf-8']],
      body: Buffer.from('{"id":1}').toString('base64'),
      attention: null,
      steps: [],
    });
    await expect(run('resolve', 'bob', 'works', ...args)).resolves.toMatchObject({ exitCode: 3 });
    await expect(run('resolve', 'ada', 'done', ...args)).resolves.toMatchObject({ exitCode: 3 });
  });

  it('release lets it go on, and keeps the steps that have ended', async () => {
    await expect(run('release', 'ada', 'stuck', '-y')).resolves.toMatchObject({ exitCode: 0 });
    expect(await json('show', 'ada', 'stuck')).toMatchObject({ state: 'released', steps: [{ name: 'reserve' }] });
    await expect(run('release', 'bob', 'works', '-y', '--json')).resolves.toMatchObject({
      exitCode: 3,
      stdout: '{"done":false}\n',
    });
  });

  it('forget deletes a key, once', async () => {
    await expect(run('forget', 'ada', 'done', '--yes')).resolves.toMatchObject({ exitCode: 0 });
    await expect(run('forget', 'ada', 'done', '--yes')).resolves.toMatchObject({ exitCode: 3 });
    await expect(names('--scope', 'ada')).resolves.toEqual(['stuck']);
  });

  it('purge --dry-run only counts', async () => {
    await expect(run('purge', '--dry-run')).resolves.toMatchObject({ stdout: 'would delete 1 expired key\n' });
    expect(await json('purge', '--dry-run')).toEqual({ expired: 1 });
    expect(await json('purge')).toEqual({ deleted: 1, locked: false });
  });

  it.each([
    [['forget', '', 'k'], 'Give --yes'],
    [['resolve', '', 'k', '--yes'], '--status <200 to 499>'],
    [['resolve', '', 'k', '--yes', '--status', '204', '--response', 'x'], 'has no body'],
    [['resolve', '', 'k', '--yes', '--status', '500'], 'from 200 to 499'],
    [['show', 'k'], 'show takes <scope> <key>'],
    [['list', '--state', 'lost'], 'completed, running, interrupted'],
    [['list', '--after', 'nowhere'], 'what the page before has said'],
    [['stats', '--yes'], '--yes is an option of forget, release, resolve alone.'],
  ])('refuse wrong usage before anything is connected to: %j', async (args, message) => {
    const failure = await runCommand([...args, '--url', 'postgres://127.0.0.1:1/nowhere']).catch(describeFailure);
    expect(failure).toMatchObject({ exitCode: 2, message: expect.stringContaining(message) });
  });
});

describe('keys of observe mode', () => {
  it('are told apart from those that can be replayed', async () => {
    const database = await createTestDatabase();
    const dataSource = await new DataSource({ type: 'postgres', url: database.url }).initialize();
    await queryOn(database.url, FIXTURE, [RESPONSE_BODY]);
    const { request } = storedAs(testAttempt('seen', { scope: 'ada', path: '/seen' }));
    const response = { status: 201, bodyBytes: 1, sha256: '0'.repeat(64) };
    const seen = { request, response, endedMsAgo: 0 };
    expect(await new ObservedKeys(undefined).add(dataSource, seen)).toBe(true);
    await dataSource.destroy();
    const ask = async (...args: string[]) =>
      JSON.parse((await runCliHere([...args, '--json', '--url', database.url])).stdout) as Record<string, unknown>;

    const stats = (await ask('stats')) as unknown as KeyStatistics;
    expect(stats.states).toEqual({
      completed: 1,
      running: 1,
      interrupted: 1,
      released: 1,
      'steps-changed': 0,
      observed: 1,
    });
    expect(stats.scopes.map(({ scope }) => scope)).toEqual(['ada', 'bob']);
    expect(stats.routes.map(({ path }) => path)).not.toContain('/seen');

    const observed = [expect.objectContaining({ key: 'seen', state: 'observed', status: 201 })];
    expect((await ask('list', '--state', 'observed'))['keys']).toEqual(observed);
    expect((await ask('list', '--scope', 'ada', '--path', '/seen'))['keys']).toEqual(observed); // by the scope of the caller
    const completed = (await ask('list', '--state', 'completed'))['keys'] as { key: string }[];
    expect(completed.map(({ key }) => key)).toEqual(['done']);
    await database.drop();
  });
});

describe('the commands for migrations', () => {
  it('print JSON, one document, where that is asked for', async () => {
    const empty = await createEmptyDatabase();
    const ask = async (...args: string[]) => {
      const { stdout, exitCode } = await runCliHere([...args, '--json', '--url', empty.url]);
      return { exitCode, told: JSON.parse(stdout) as Record<string, unknown> };
    };
    const names = idempotencyMigrations.map(({ name }) => name);
    const plain = { partitions: 0, partitionedBy: null };
    const states = (applied: boolean) => names.map((name) => ({ name, applied }));

    expect(await ask('migration:show')).toEqual({ exitCode: 0, told: { migrations: states(false), ...plain } });
    const { statements } = (await ask('migration:sql')).told as { statements: string[] };
    expect(statements.join('\n')).toContain('create table "idempotency_keys"');
    expect(await ask('migration:run')).toEqual({ exitCode: 0, told: { applied: names } });
    expect(await ask('migration:run')).toEqual({ exitCode: 0, told: { applied: [] } });
    expect(await ask('migration:sql')).toEqual({ exitCode: 0, told: { statements: [] } });
    expect(await ask('migration:show')).toEqual({ exitCode: 0, told: { migrations: states(true), ...plain } });
    const newestFirst = names.toReversed();
    for (const name of newestFirst) {
      expect(await ask('migration:revert')).toEqual({ exitCode: 0, told: { reverted: name } });
    }
    expect(await ask('migration:revert')).toEqual({ exitCode: 0, told: { reverted: null } });
    await empty.drop();
  });
});

describe('doctor', () => {
  let database: TestDatabase;

  beforeEach(async () => {
    database = await createTestDatabase();
  });

  /** The server of the tests is a fast one. */
  const OF_THE_TESTS = ['fsync', 'full_page_writes'];

  const examine = async (url: string, ...args: string[]) => {
    const { stdout, exitCode } = await runCliHere(['doctor', '--json', '--url', url, ...args]);
    const all = (JSON.parse(stdout) as { findings: Finding[] }).findings;
    const findings = all.filter(({ check }) => !OF_THE_TESTS.includes(check));
    return { exitCode, all, findings, checks: findings.map(({ check }) => check).toSorted() };
  };

  it('finds nothing where all is well, but for what makes the server of the tests a fast one', async () => {
    const { exitCode, all } = await examine(database.url);
    expect([exitCode, all.map(({ check }) => check)]).toEqual([1, OF_THE_TESTS]);
    const { stdout } = await runCliHere(['doctor', '--url', database.url]);
    expect(stdout).toContain(
      'fsync: fsync is off: a crash of the machine may lose or corrupt anything\n  Set fsync = on,',
    );
    await database.drop();
  });

  it('finds what is wrong with the tables, and its remedies mend it', async () => {
    await queryOn(
      database.url,
      `alter table idempotency_steps set unlogged;
       alter table idempotency_keys set (autovacuum_enabled = off);
       alter table idempotency_keys drop constraint idempotency_keys_key_length;
       drop index idempotency_keys_expires_at_idx;
       create schema other;
       create table other.idempotency_keys (like idempotency_keys)`,
    );
    const { exitCode, findings, checks } = await examine(database.url);
    expect(exitCode).toBe(1);
    expect(checks).toEqual(['autovacuum', 'constraint', 'index', 'search_path', 'unlogged']);
    expect(findings.map(({ problem }) => problem).join('\n')).toMatch(
      /the purge has no index to go by: there is none on "public"."idempotency_keys" \(expires_at\)/,
    );
    await queryOn(database.url, 'drop schema other cascade');
    for (const { check, remedy } of findings) {
      if (check === 'unlogged' || check === 'autovacuum') {
        await queryOn(database.url, /Run: (.*;)/.exec(remedy)![1]!);
      }
    }
    expect((await examine(database.url)).checks).toEqual(['constraint', 'index']);
    await database.drop();
  });

  it('finds operations that wait, and a purge that is behind', async () => {
    await queryOn(database.url, FIXTURE, [RESPONSE_BODY]);
    const { findings, checks } = await examine(database.url);
    expect(checks).toEqual(['interrupted', 'purge']);
    expect(findings.map(({ problem }) => problem)).toEqual([
      'the oldest expired key has waited for the purge for 2 h',
      '1 operation waits for an operator, the oldest for 25 h',
    ]);
    await database.drop();
  });

  it('finds settings of the role that get in the way', async () => {
    const role = `operator_${database.name.slice(-12)}`;
    const url = new URL(database.url);
    await queryOn(
      database.url,
      `create role ${role} login password 'x';
       grant select on idempotency_keys, idempotency_steps to ${role};
       alter role ${role} set default_transaction_read_only = on;
       alter role ${role} set synchronous_commit = off;
       alter role ${role} set statement_timeout = 500`,
    );
    [url.username, url.password] = [role, 'x'];
    const { findings, checks } = await examine(url.href, '--pool-size', '50', '--instances', '1000');
    expect(checks).toEqual(['pool', 'read-only', 'rights', 'rights', 'statement_timeout', 'synchronous_commit']);
    expect(findings.find(({ check }) => check === 'rights')!.remedy).toBe(
      `Run: grant insert, update, delete on "public"."idempotency_keys" to "${role}";`,
    );
    await database.drop();
    await onServer(`drop role ${role}`);
  });

  it('finds that partitions are missing, and nothing of tables that have them all', async () => {
    await turnTablesInto('8 HASH partitions', database.url);
    expect((await examine(database.url)).checks).toEqual([]);
    const [partition] = await queryOn<{ name: string }>(
      database.url,
      `select inhrelid::regclass::text as name from pg_inherits where inhparent = 'idempotency_keys'::regclass limit 1`,
    );
    await queryOn(database.url, `drop table ${partition!.name}`);
    const { checks, findings } = await examine(database.url);
    expect(checks).toEqual(['partitions']);
    expect(findings[0]!.problem).toMatch(/^idempotency_keys has 7 partitions, /);
    await database.drop();
  });

  it('finds sessions that are idle in a transaction, once they are it for long', async () => {
    const [idle, dataSource] = [new Client(database.url), new DataSource({ type: 'postgres', url: database.url })];
    await idle.connect();
    await idle.query('begin');
    await dataSource.initialize();
    try {
      const diagnosis = new Diagnosis(dataSource);
      expect(await diagnosis.idleTransactions(0)).toEqual({ count: 1, oldestSeconds: expect.any(Number) });
      expect(await diagnosis.idleTransactions(600)).toEqual({ count: 0, oldestSeconds: 0 });
    } finally {
      await idle.end();
      await dataSource.destroy();
    }
    await database.drop();
  });

  it('says what it runs on', async () => {
    const { stdout } = await runCliHere(['doctor', '--url', database.url]);
    expect(stdout).toMatch(/^nestjs-idempotency \S+, TypeORM [01]\.\S+, pg 8\.\S+, on PostgreSQL 1\d/);
    const told = JSON.parse((await runCliHere(['doctor', '--json', '--url', database.url])).stdout) as object;
    expect(told).toMatchObject({ versions: { postgres: expect.stringMatching(/^1\d/) }, pooler: null });
    await database.drop();
  });

  it('finds tables that are not there, or not of this version', async () => {
    const empty = await createEmptyDatabase();
    const { stdout, exitCode } = await runCliHere(['doctor', '--url', empty.url]);
    expect(exitCode).toBe(1);
    expect(stdout).toContain('Run: npx nestjs-idempotency migration:run');
    await empty.drop();
    await database.drop();
  });

  async function onServer(sql: string): Promise<void> {
    const client = new Client(process.env['TEST_DATABASE_URL']);
    await client.connect();
    await client.query(sql);
    await client.end();
  }
});
