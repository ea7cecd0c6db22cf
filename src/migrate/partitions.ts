import { findCitusTables } from '../postgres/statements/citus-tables.js';
import { hasUniqueIndex } from '../postgres/statements/row-identity.js';
import { KEYS_TABLE, STEPS_TABLE, tableName } from '../postgres/table-name.js';
import type { LockPatience } from '../postgres/ddl/patient-ddl.js';
import type { MigrationRunner } from '../postgres/ddl/migration-runner.js';
import { Move, type Table } from './partition-move.js';

/** Two at the least; more than a thousand make each look through all of them (the purge's) slow. */
export const PARTITIONS = { least: 2, most: 1_000 };

const TABLES: Table[] = [
  {
    name: KEYS_TABLE,
    partitionKey: 'key',
    primaryKey: ['scope', 'key'],
    types: ['text', 'text'],
    below: '',
    indexed: ['expires_at'],
  },
  {
    name: STEPS_TABLE,
    partitionKey: 'execution_id',
    primaryKey: ['execution_id', 'name'],
    types: ['uuid', 'text'],
    below: '00000000-0000-0000-0000-000000000000',
    indexed: [],
  },
];

/** How a table is split. */
export interface Split {
  partitions: number;
  /** As PostgreSQL tells it: `HASH (key)`; nothing for a plain table. */
  by?: string;
}

export async function splitOf(runner: Pick<MigrationRunner, 'query'>, schema: string, table: string): Promise<Split> {
  const [found] = (await runner.query(
    `select (select count(*)::int4 from pg_inherits where inhparent = c.oid) as partitions, pg_get_partkeydef(c.oid) as by
     from pg_class c where c.oid = to_regclass($1::text) and c.relkind = 'p'`,
    [tableName(table, schema)],
  )) as Split[];
  return found ?? { partitions: 0 };
}

/** Whether both tables are split by HASH as those are that the way leads to, or, with 0, not at all. */
export async function isPartitionedInto(runner: MigrationRunner, schema: string, count: number): Promise<boolean> {
  for (const { name, partitionKey } of TABLES) {
    const { partitions, by } = await splitOf(runner, schema, name);
    if (partitions !== count || (by !== undefined && by !== `HASH (${partitionKey})`)) {
      return false;
    }
  }
  return true;
}

/**
 * The way from tables that are plain, or partitioned in whatever way, to those of `count`, 0 for plain ones. The new tables are filled
 * beside the old ones, which go on serving and tell them of what changes; then both are exchanged.
 *
 * @throws Error where there is no such way
 */
export async function partitioning(
  runner: MigrationRunner,
  schema: string,
  count: number,
  lock: string,
  patience: LockPatience,
): Promise<string[]> {
  const hasCitus = await assertPartitionable(runner, schema);
  const moves = TABLES.map((table) => new Move(table, schema, count));
  const rights = await Promise.all(moves.map((move) => move.rights(runner)));
  const watches = await Promise.all(moves.map((move) => move.watch(runner)));
  return [
    'begin',
    lock,
    `set local lock_timeout = '${patience.lockTimeoutMs}ms'`,
    // Citus would make the new tables its own, which it cannot while their partitions are made.
    ...(hasCitus ? ['set local citus.use_citus_managed_tables = off'] : []),
    ...moves.flatMap((move, n) => [...move.create, ...rights[n]!, ...watches[n]!]),
    'commit',
    ...moves.flatMap((move) => [move.copy, `analyze ${move.next}`]),
    `begin`,
    lock,
    `set local lock_timeout = '${patience.lockTimeoutMs}ms'`,
    takeOver(
      moves.map(({ table }) => table),
      patience,
    ),
    ...moves.flatMap((move) => move.exchange),
    'commit',
    ...moves.flatMap((move) => move.drop),
  ];
}

/** @returns whether Citus is there, which does not have the tables */
async function assertPartitionable(runner: MigrationRunner, schema: string): Promise<boolean> {
  const names = TABLES.map(({ name }) => tableName(name, schema));
  const children = (await runner.query(
    `select inhparent::regclass::text as parent from pg_inherits join pg_class c on c.oid = inhparent
     where inhparent = any (select to_regclass(name) from unnest($1::text[]) name) and c.relkind = 'r'`,
    [names],
  )) as { parent: string }[];
  if (children.length > 0) {
    throw new Error(
      `the table ${children[0]!.parent} has children that inherit from it: move their rows into it first.`,
    );
  }
  const dependent = (await runner.query(
    `select distinct coalesce(r.ev_class, c.conrelid)::regclass::text as name, d.refobjid::regclass::text as table
     from pg_depend d
       left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid and r.ev_class <> d.refobjid
       left join pg_constraint c on d.classid = 'pg_constraint'::regclass and c.oid = d.objid and c.conrelid <> d.refobjid
     where d.refclassid = 'pg_class'::regclass and d.refobjid = any (select to_regclass(name) from unnest($1::text[]) name)
       and (r.oid is not null or c.contype = 'f')
     order by 1`,
    [names],
  )) as { name: string; table: string }[];
  if (dependent.length > 0) {
    const { name, table } = dependent[0]!;
    throw new Error(
      `${name} depends on the table ${table}, and would stay with the old one: drop it (a view, or a foreign key) first, and make it again afterwards.`,
    );
  }
  for (const { name, primaryKey } of TABLES) {
    const table = tableName(name, schema);
    const [found] = (await runner.query(`select ${hasUniqueIndex('$1::text::regclass', '$2::text[]')} as "keepsOnce"`, [
      table,
      primaryKey,
    ])) as { keepsOnce: boolean }[];
    if (!found!.keepsOnce) {
      throw new Error(
        `the table ${table} has no unique index over (${primaryKey.join(', ')}): a row may be in it twice.`,
      );
    }
  }
  const citus = await findCitusTables(runner, schema);
  if (citus !== undefined && citus.plain.length < names.length) {
    throw new Error('the tables are those of Citus, which splits them by itself: see docs/scaling.md.');
  }
  return citus !== undefined;
}

/** Requests queue up behind a lock that is waited for: they are let through in between, as by `migration:run`. */
function takeOver(tables: string[], { tries, pauseMs }: LockPatience): string {
  return `do $lock$
begin
  for try in 1..${tries} loop
    begin
      lock table ${tables.join(', ')} in access exclusive mode;
      return;
    exception when lock_not_available then
      raise notice 'somebody uses the tables; requests are let through meanwhile (try % of ${tries})', try;
    end;
    perform pg_sleep(${pauseMs / 1_000});
  end loop;
  raise exception using errcode = 'lock_not_available', message = 'the tables were in use all the time: run this part again, from its BEGIN';
end $lock$`;
}
