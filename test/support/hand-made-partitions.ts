import { KEYS_TABLE, STEPS_TABLE } from '../../src/postgres/table-name.js';
import { queriesOn } from './empty-database.js';

/** Ways to split the tables that no command of ours prints, and that their primary keys allow. */
export const HAND_MADE = [
  'LIST of scopes',
  'LIST of scopes, and HASH below',
  'RANGE of keys',
  'HASH with columns in another order',
] as const;
export type HandMade = (typeof HAND_MADE)[number];

const [KEYS, STEPS] = ['keys_by_hand', 'steps_by_hand'];

/** With names that are none without quotes. */
const WAYS: Record<HandMade, { keys: string; steps: string; parts: string[] }> = {
  'LIST of scopes': {
    keys: 'list (scope)',
    steps: 'hash (execution_id)',
    parts: [
      `create table "keys of ''; no one" partition of ${KEYS} for values in ('')`,
      `create table "keys: the rest" partition of ${KEYS} default`,
      ...hash(STEPS, 2),
    ],
  },
  'LIST of scopes, and HASH below': {
    keys: 'list (scope)',
    steps: 'hash (execution_id)',
    parts: [
      `create table keys_of_nobody partition of ${KEYS} for values in ('') partition by hash (key)`,
      ...hash('keys_of_nobody', 3),
      `create table keys_of_all partition of ${KEYS} default partition by range (scope)`,
      `create table "Keys of All, A-M" partition of keys_of_all for values from (minvalue) to ('n')`,
      `create table "Keys of All, N-Z" partition of keys_of_all default`,
      ...hash(STEPS, 2),
    ],
  },
  'RANGE of keys': {
    keys: 'range (key)',
    steps: 'range (execution_id)',
    parts: [
      `create table keys_below partition of ${KEYS} for values from (minvalue) to ('k5')`,
      `create table keys_above partition of ${KEYS} for values from ('k5') to (maxvalue)`,
      `create table steps_all partition of ${STEPS} for values from (minvalue) to (maxvalue)`,
    ],
  },
  'HASH with columns in another order': {
    keys: 'hash (key)',
    steps: 'hash (execution_id)',
    parts: [...hash(KEYS, 1), ...hash(STEPS, 1), ...otherOrder(KEYS, 'scope'), ...otherOrder(STEPS, 'name')],
  },
};

/** Nothing may depend on a name of an index, which is another one here. */
export async function partitionByHand(kind: HandMade, url: string): Promise<void> {
  const { keys, steps, parts } = WAYS[kind];
  await queriesOn(url, [
    `create table ${KEYS} (like ${KEYS_TABLE} including all) partition by ${keys}`,
    `create table ${STEPS} (like ${STEPS_TABLE} including all) partition by ${steps}`,
    ...parts,
    // The table's own comment, by which migrations know it, is not among what `like` takes along.
    `do $$ begin
       execute format('comment on table ${KEYS} is %L', obj_description('${KEYS_TABLE}'::regclass, 'pg_class'));
       execute format('comment on table ${STEPS} is %L', obj_description('${STEPS_TABLE}'::regclass, 'pg_class'));
     end $$`,
    `insert into ${KEYS} select * from ${KEYS_TABLE}`,
    `insert into ${STEPS} select * from ${STEPS_TABLE}`,
    `drop table ${KEYS_TABLE}, ${STEPS_TABLE}`,
    `alter table ${KEYS} rename to ${KEYS_TABLE}`,
    `alter table ${STEPS} rename to ${STEPS_TABLE}`,
  ]);
}

/** As many again are left to be attached, where `count` is 1. */
function hash(table: string, count: number): string[] {
  const modulus = Math.max(count, 2);
  return Array.from(
    { length: count },
    (_, n) => `create table ${table}_${n} partition of ${table} for values with (modulus ${modulus}, remainder ${n})`,
  );
}

/** What was a table of its own, whose first column came last, and which has lost one. */
function otherOrder(table: string, column: string): string[] {
  const other = `${table}_attached`;
  return [
    `create table ${other} (like ${table} including defaults including constraints)`,
    `alter table ${other} add column gone int, add column late text collate "C"`,
    `alter table ${other} drop column gone, drop column ${column} cascade`,
    `alter table ${other} rename column late to ${column}`,
    `alter table ${other} alter column ${column} set not null`,
    `do $$ declare def text; con text; begin
       for con, def in select conname, pg_get_constraintdef(oid) from pg_constraint c where conrelid = '${table}'::regclass and contype = 'c'
         and not exists (select from pg_constraint o where o.conrelid = '${other}'::regclass and o.conname = c.conname) loop
         execute format('alter table ${other} add constraint %I %s', con, def);
       end loop; end $$`,
    `alter table ${table} attach partition ${other} for values with (modulus 2, remainder 1)`,
  ];
}
