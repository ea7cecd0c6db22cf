import { findCitusTables } from '../postgres/statements/citus-tables.js';
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

/** How many HASH partitions the table of keys has; 0 for a plain one. */
export async function countPartitions(runner: Pick<MigrationRunner, 'query'>, schema: string): Promise<number> {
  const [found] = (await runner.query(
    `select (select count(*)::int4 from pg_inherits where inhparent = c.oid) as children, relkind as kind
     from pg_class c where c.oid = to_regclass($1::text)`,
    [tableName(KEYS_TABLE, schema)],
  )) as { children: number; kind: string }[];
  return found?.kind === 'p' ? found.children : 0;
}

/**
 * The way from tables of any number of HASH partitions to those of `count`, 0 for plain ones. The new tables are filled
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
  await assertPartitionable(runner, schema);
  const moves = TABLES.map((table) => new Move(table, schema, count));
  const rights = await Promise.all(moves.map((move) => move.rights(runner)));
  return [
    'begin',
    lock,
    `set local lock_timeout = '${patience.lockTimeoutMs}ms'`,
    ...moves.flatMap((move, n) => [...move.create, ...rights[n]!, ...move.watch]),
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

async function assertPartitionable(runner: MigrationRunner, schema: string): Promise<void> {
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
  const citus = await findCitusTables(runner, schema);
  if (citus !== undefined && citus.plain.length < names.length) {
    throw new Error('the tables are those of Citus, which splits them by itself: see docs/scaling.md.');
  }
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
