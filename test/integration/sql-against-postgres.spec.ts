import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { type Arbitrary, array, assert, asyncProperty, constant, constantFrom, oneof, tuple } from 'fast-check';
import { Client } from 'pg';
import { transactionControlIn } from '../../src/postgres/ambient/sql-statements.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';

let database: TestDatabase;
let client: Client;
let warnings: (string | undefined)[];

beforeAll(async () => {
  database = await createTestDatabase();
  client = new Client(database.url);
  client.on('notice', ({ code }) => warnings.push(code));
  await client.connect();
});

afterAll(async () => {
  await client.end();
  await database.drop();
});

/** "there is already a transaction in progress", and none that is. */
const TRANSACTION_CONTROL_WARNINGS = ['25001', '25P01'];

interface Verdict {
  /** Whether a statement began or ended a transaction, by what became of the one around. */
  controls: boolean;
  /** Whether all of the text was executed. */
  executed: boolean;
}

/** A savepoint is there as long as its transaction; texts have no others before it to go back to. */
async function judgedByPostgres(sql: string): Promise<Verdict> {
  warnings = [];
  await client.query('begin; savepoint witness');
  const executed = await client.query(sql).then(
    () => true,
    () => false,
  );
  const survived = await client.query('rollback to savepoint witness').then(
    () => true,
    () => false,
  );
  const warned = warnings.some((code) => TRANSACTION_CONTROL_WARNINGS.includes(code ?? ''));
  await client.query('rollback');
  return { controls: !survived || warned, executed };
}

/** What looks like something else inside of quotes and comments. */
const NASTY =
  `'|''|"|""|$|$$|$a$|$b$|\\|\\'|/*|*/|--|\n|\r| |;|a|E|commit|; commit|end|begin atomic|é|1|(|)|/|*|-|U&|e'|E'`.split(
    '|',
  );
const nasty = array(constantFrom(...NASTY), { maxLength: 6 }).map((parts) => parts.join(''));

const quoted: Arbitrary<string> = oneof(
  nasty.map((text) => `'${text.replaceAll("'", "''")}'`),
  nasty.map((text) => `'${text}'`),
  nasty.map((text) => `E'${text}'`),
  nasty.map((text) => `e'${text}'\n'${text}'`),
  nasty.map((text) => `E'' -- '\n'${text}'`),
  nasty.map((text) => `U&'${text}'`),
  nasty.map((text) => `N'${text}'`),
  nasty.map((text) => `$$${text}$$`),
  nasty.map((text) => `$a$${text}$a$`),
  nasty.map((text) => `$é1$${text}$é1$`),
  nasty.map((text) => `1 as "${text.replaceAll('"', '""')}"`),
  nasty.map((text) => `1 as U&"${text}x"`),
  nasty.map((text) => `1 as a$$, '${text}' as b$a$`),
);

const blank: Arbitrary<string> = oneof(
  constantFrom('', ' ', '\n', '\t\r\n', '\f'),
  nasty.map((text) => `/*${text}*/`),
  nasty.map((text) => `/*/* ${text} */ */`),
  nasty.map((text) => `--${text}\n`),
);

const harmless: Arbitrary<string> = oneof(
  quoted.map((literal) => `select ${literal}`),
  tuple(quoted, quoted).map(([one, other]) => `select ${one}, ${other}`),
  tuple(blank, quoted).map(([space, literal]) => `select${space} ${literal}`),
  nasty.map((text) => `do $do$ begin perform '${text.replaceAll("'", "''")}'; end $do$`),
  constantFrom(
    '',
    'values (1)',
    'savepoint mine',
    'do $$ begin perform 1; end $$',
    'prepare transaction as select 1',
    'set transaction read write',
    'create temp table start (begin int, atomic int)',
    'create or replace function pg_temp.f(begin int) returns int language sql begin atomic select 1; end',
    'create or replace function pg_temp.f(a int) returns int begin atomic select case a when 1 then 2 end; select 1; end',
    'create or replace procedure pg_temp.p() language sql begin atomic ; ; end',
    'create or replace function pg_temp.g() returns int language sql as $$ select 1; $$',
    'create or replace function pg_temp.h() returns int return case when true then 1 end',
  ),
);

const controls: Arbitrary<string> = oneof(
  constantFrom('commit', 'COMMIT WORK', 'commit and chain', 'end', 'End Transaction', 'abort', 'rollback', 'begin'),
  constantFrom('rollback transaction and chain', 'start transaction', 'begin isolation level serializable'),
  tuple(constantFrom('start', 'commit', 'rollback'), blank).map(([word, space]) => `${word}${space} transaction`),
);

/** Statements with what may stand around them, in one text. */
const text = array(tuple(blank, oneof({ weight: 4, arbitrary: harmless }, controls), blank), {
  minLength: 1,
  maxLength: 4,
}).map((statements) => statements.map((parts) => parts.join('')).join(';'));

const soup = array(oneof(nasty, constant('select '), constant(';'), controls), { maxLength: 8 }).map((parts) =>
  parts.join(''),
);

describe('what a text is taken for', () => {
  it('is what PostgreSQL makes of it', async () => {
    const seen = { controls: 0, harmless: 0 };
    await assert(
      asyncProperty(oneof({ weight: 3, arbitrary: text }, soup), async (sql) => {
        const verdict = await judgedByPostgres(sql);
        const isTakenForControl = transactionControlIn(sql) !== undefined;
        seen.controls += Number(verdict.controls);
        seen.harmless += Number(verdict.executed && !verdict.controls);
        // A text that fails without touching the transaction is PostgreSQL's to refuse, whatever it is taken for.
        const isRight = verdict.controls ? isTakenForControl : !isTakenForControl || !verdict.executed;
        expect({ sql, isRight }).toEqual({ sql, isRight: true });
      }),
      { numRuns: 1_000 },
    );
    expect(seen.controls).toBeGreaterThan(100);
    expect(seen.harmless).toBeGreaterThan(100);
  });
});
