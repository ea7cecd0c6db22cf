import { describe, expect, it } from '@jest/globals';
import { fitsCursor, isRead, transactionControlIn } from '../../src/postgres/ambient/sql-statements.js';
import { type Boundary, boundaryIn } from '../../src/postgres/ambient/transaction-boundary.js';
import type { SqlText } from '../../src/postgres/ambient/sql-scanner.js';

describe('transaction control', () => {
  it.each([
    ['begin', 'BEGIN'],
    ['BEGIN ISOLATION LEVEL SERIALIZABLE', 'BEGIN'],
    [' start transaction', 'START TRANSACTION'],
    ['COMMIT', 'COMMIT'],
    ['commit work and chain', 'COMMIT'],
    ["commit prepared 'x'", 'COMMIT PREPARED'],
    ['end', 'END'],
    ['abort', 'ABORT'],
    ['rollback', 'ROLLBACK'],
    ['ROLLBACK WORK', 'ROLLBACK'],
    ['rollback and chain', 'ROLLBACK'],
    ["rollback prepared 'x'", 'ROLLBACK PREPARED'],
    ["prepare transaction 'x'", 'PREPARE TRANSACTION'],
    ["prepare transaction U&'x'", 'PREPARE TRANSACTION'],
    ['/* by hand */ commit', 'COMMIT'],
    ['/* /* */ */ commit', 'COMMIT'],
    ['/* a /* b */ */ -- c\n ; commit', 'COMMIT'],
    ['-- by hand\rcommit', 'COMMIT'],
    ['select 1; commit', 'COMMIT'],
    ['select 1;;; /* */ COMMIT; begin', 'COMMIT'],
    ['select 1; end', 'END'],
    ["select '$$'; end", 'END'],
    ["select '$$', '; --'; end", 'END'],
    ['select "\'"; commit --\'', 'COMMIT'],
    [`select 'it''s'; commit`, 'COMMIT'],
    [String.raw`select '\'; commit; --'`, 'COMMIT'],
    [String.raw`select E'\''; commit; --'`, 'COMMIT'],
    [`select $a$ $b$ ' $a$; commit`, 'COMMIT'],
    ['select a$$ from b$$; commit; --$$', 'COMMIT'],
    ['select 1+/* */1; commit', 'COMMIT'],
    ['do $$ begin null; end $$; rollback', 'ROLLBACK'],
    ['create function f() returns int begin atomic select case when true then 1 end; end; commit', 'COMMIT'],
    ['create function f(begin atomic) returns int language sql; commit', 'COMMIT'],
    ['create rule r as on insert to a do also (delete from b; delete from c); commit', 'COMMIT'],
  ])('is seen: %s', (sql, control) => {
    expect(transactionControlIn(sql)).toBe(control);
  });

  it.each([
    '',
    ';',
    '-- commit',
    '/* /* */ commit',
    '/* ; */ select 1',
    "values ('first; commit afterwards')",
    "select 'a''; commit'",
    String.raw`select E'\'; commit --'`,
    String.raw`select e'a' -- '` + '\n' + String.raw`'\'; commit'`,
    String.raw`select U&'\0027; commit'`,
    'select "a""; commit"',
    'select $$; commit$$',
    'select $a$ $$; commit $b$; commit $a$',
    'do $$ begin perform 1; end $$',
    'do $$ begin commit; end $$; select 1',
    "do language plpgsql 'begin perform 1; end'",
    'create function f() returns int language sql begin atomic select 1; end',
    'CREATE OR REPLACE PROCEDURE p(a int) BEGIN ATOMIC SELECT CASE a WHEN 1 THEN 2 END; INSERT INTO b VALUES (a); END;',
    'create function f(begin int) returns int begin atomic ; end; select 1',
    'savepoint a',
    'rollback to a',
    'ROLLBACK TRANSACTION /* */ TO SAVEPOINT a',
    'release a',
    'set transaction read only',
    'set session characteristics as transaction read only',
    'prepare transaction as select 1',
    'prepare transaction (int) as select $1',
    'select 1 as commit',
    'select begin, "end" from start',
    'commits',
    '\u00A0commit',
    'rollbac\u212A',
    "select 'unterminated; commit",
    'select $a$ unterminated; commit $A$',
    'select $1; select $2',
  ])('is not seen where there is none: %s', (sql) => {
    expect(transactionControlIn(sql)).toBeUndefined();
  });

  it.each<[kind: string, text: (length: number) => string]>([
    ['semicolons', (length) => ';'.repeat(length)],
    ['semicolons in a literal', (length) => `select '${';'.repeat(length)}'`],
    ['semicolons and blanks', (length) => '; '.repeat(length / 2)],
    ['comments that are opened', (length) => '/*'.repeat(length / 2)],
    ['comments', (length) => '/**/'.repeat(length / 4)],
    ['half comments', (length) => '/*/'.repeat(length / 3)],
    ['dashes', (length) => '-'.repeat(length)],
    ['lines of dashes', (length) => '--\n'.repeat(length / 3)],
    ['quotes', (length) => "'".repeat(length)],
    ['literals', (length) => "''\n".repeat(length / 3)],
    ['literals with escapes', (length) => "E''\n--'\n".repeat(length / 8)],
    ['backslashes', (length) => `E'${'\\'.repeat(length)}`],
    ['dollar signs', (length) => '$'.repeat(length)],
    ['tags that are opened', (length) => '$a$'.repeat(length / 3)],
    ['tags that differ', (length) => Array.from({ length: length / 8 }, (_, n) => `$a${n}$`).join('')],
    ['a long tag that is nearly closed', (length) => `$${'a'.repeat(length / 2)}$${'$aaaa'.repeat(length / 10)}`],
    ['a long tag once more without its end', (length) => `$${'a'.repeat(length / 2)}$$${'a'.repeat(length / 2)}b$`],
    ['parentheses', (length) => `create function f${'('.repeat(length)}`],
    ['bodies', (length) => 'create function f() begin atomic; end;'.repeat(length / 38)],
    ['bodies that are opened', (length) => `create function f() ${'begin atomic '.repeat(length / 13)}`],
    ['words', (length) => 'rollback to a;'.repeat(length / 14)],
    ['a word', (length) => 'a'.repeat(length)],
    ['digits', (length) => '1'.repeat(length)],
  ])('is looked for in time that is proportional to the length: %s', (_, text) => {
    const steps = (sql: string): number => {
      let reads = 0;
      const counted: SqlText = {
        length: sql.length,
        charCodeAt: (index) => {
          reads++;
          return sql.charCodeAt(index);
        },
      };
      transactionControlIn(counted);
      return reads;
    };
    const [short, long] = [text(1_000), text(100_000)];
    expect(steps(short)).toBeGreaterThan(short.length / 3); // it is counted at all
    expect(steps(long)).toBeLessThan(20 * long.length);
    expect(steps(long) / long.length).toBeLessThan((1.2 * steps(short)) / short.length);
  });
});

describe('a read', () => {
  it.each([
    'select 1',
    'SELECT "update" FROM a -- delete',
    "select 'insert into b'",
    'with a as (select 1) select * from a;',
    'values (1)',
    'table a',
    '(select 1) union select 2',
  ])('is known: %s', (sql) => {
    expect(isRead(sql)).toBe(true);
  });

  it.each([
    '',
    'insert into a values (1)',
    'with gone as (delete from a returning *) select * from gone',
    'select * into b from a',
    'select * from a for update',
    'select 1; delete from a',
    'select 1; select 2',
    "select nextval('a')",
    'select pg_advisory_xact_lock(1)',
    'select pg_try_advisory_lock(1)',
    `select pg_notify('a', 'b')`,
    `select set_config('a.b', 'c', true)`,
    'set local a.b = 1',
    'savepoint a',
    'listen a',
    'call a()',
    'explain analyze delete from a',
  ])('is not presumed of %s', (sql) => {
    expect(isRead(sql)).toBe(false);
  });
});

describe('a cursor', () => {
  it.each([
    'select 1',
    "select 'delete'",
    'select * from a for update',
    'select * from a for no key update of a',
    'values (1)',
  ])('may be for %s', (sql) => {
    expect(fitsCursor(sql)).toBe(true);
  });

  it.each([
    'show all',
    'explain select 1',
    'insert into a values (1) returning *',
    'with a as (update b set c = 1 returning *) select * from a',
    'select * into b from a',
  ])('is not for %s', (sql) => {
    expect(fitsCursor(sql)).toBe(false);
  });
});

describe('boundaryIn', () => {
  it.each<[string, Boundary | undefined]>([
    ['begin', { begins: { isolation: undefined, isReadOnly: false } }],
    ['BEGIN WORK;', { begins: { isolation: undefined, isReadOnly: false } }],
    ['/* a */ start transaction -- b\n;;', { begins: { isolation: undefined, isReadOnly: false } }],
    [
      'begin read only, isolation level repeatable read',
      { begins: { isolation: 'REPEATABLE READ', isReadOnly: true } },
    ],
    [
      'begin isolation level serializable read write not deferrable',
      { begins: { isolation: 'SERIALIZABLE', isReadOnly: false } },
    ],
    ['END TRANSACTION', { ends: 'commit' }],
    ['commit;', { ends: 'commit' }],
    ['abort', { ends: 'roll back' }],
    ['rollback work', { ends: 'roll back' }],
    ['rollback to savepoint one', undefined],
    ['rollback and chain', undefined],
    ['commit prepared $$x$$', undefined],
    ['begin; select 1', undefined],
    ['commit; begin', undefined],
    ['begin isolation level read', undefined],
    ['begin,', undefined],
    ['select 1', undefined],
    ["select 'begin'", undefined],
  ])('%s', (sql, boundary) => {
    expect(boundaryIn(sql)).toEqual(boundary);
  });
});
