import { type Queryable, rowsOf } from '../queryable.js';
import { SQLSTATE, sqlStateOf } from '../sqlstate.js';
import { assertCommitsTogether, assertReadableLiterals, type CitusTables, findCitusTables } from './citus-tables.js';
import { KEYS_TABLE, quoteIdentifier, STEPS_TABLE, tableName } from '../table-name.js';
import { hasUniqueIndex, ROW_IDENTITY, uniqueIndexRemedy } from './row-identity.js';

/** Where the tables are, found once: no `search_path` of a later session leads elsewhere. */
export interface KeyTables {
  schema: string;
  /** That of the session that found them. */
  searchPath: string;
  /** What Citus makes of them, where it is. */
  citus?: CitusTables;
}

/**
 * Whether Citus plans the statements on them, of whatever kind of its tables they are: distributed, reference, managed on
 * the coordinator.
 */
export function isDistributed({ citus }: Pick<KeyTables, 'citus'>): boolean {
  return citus !== undefined && citus.plain.length < 2;
}

/** Of the last migration. */
const LATEST_COLUMN = 'trace_context';

/** All that the library does with a table; `for share` and `for update` take the right to UPDATE. */
const PRIVILEGES = ['select', 'insert', 'update', 'delete'];

/**
 * Looks for the tables in `schema`, without one along the `search_path`. Nothing, when one of them is not there, or a migration is missing.
 *
 * @throws Error when the schema must not be used
 */
export async function findKeyTables(db: Queryable, schema: string | undefined): Promise<KeyTables | undefined> {
  const [found] = await rowsOf<KeyTables & { complete: boolean }>(
    db,
    `select n.nspname as schema, current_setting('search_path') as "searchPath",
            to_regclass(format('%I.%I', n.nspname, $2::text)) is not null and exists (
              select from pg_attribute
              where attrelid = k.oid and attname = $3::text and not attisdropped) as complete
     from pg_class k join pg_namespace n on n.oid = k.relnamespace
     where k.oid = to_regclass($1::text)`,
    [tableName(KEYS_TABLE, schema), STEPS_TABLE, LATEST_COLUMN],
  ).catch(async (error: unknown) => {
    if (sqlStateOf(error) !== SQLSTATE.insufficientPrivilege || schema === undefined) {
      throw error;
    }
    const role = await currentRole(db);
    throw new Error(
      `the role "${role}" must not use the schema "${schema}". Run: grant usage on schema ${quoteIdentifier(schema)} to ${quoteIdentifier(role)};`,
      { cause: error },
    );
  });
  if (!found?.complete) {
    return undefined;
  }
  const { schema: place, searchPath } = found;
  const citus = await findCitusTables(db, place);
  return citus === undefined ? { schema: place, searchPath } : { schema: place, searchPath, citus };
}

/**
 * Makes sure that keys can be kept in the tables, are kept through a crash of the server, and commit with what a handler
 * writes.
 *
 * @param localWrites whether no handler writes to tables that Citus keeps on other nodes
 * @throws Error that says what to run
 */
export async function assertUsable(db: Queryable, { schema, citus }: KeyTables, localWrites: boolean): Promise<void> {
  if (citus !== undefined && !localWrites) {
    assertCommitsTogether(citus, schema);
  }
  if (isDistributed({ citus })) {
    await assertReadableLiterals(db);
  }
  for (const name of [KEYS_TABLE, STEPS_TABLE] as const) {
    const [table, identity] = [tableName(name, schema), ROW_IDENTITY[name]];
    const [found] = await rowsOf<{ role: string; missing: string[]; unlogged: string[]; keepsOnce: boolean }>(
      db,
      `with recursive family as (
         select $1::text::regclass::oid as oid
         union all
         select i.inhrelid from pg_inherits i join family f on f.oid = i.inhparent)
       select current_user::text as role,
              array(select p from unnest($2::text[]) p where not has_table_privilege($1::text, p)) as missing,
              array(select c.oid::regclass::text from pg_class c join family f on f.oid = c.oid
                    where c.relpersistence = 'u') as unlogged,
              ${hasUniqueIndex('$1::text::regclass', '$3::text[]')} as "keepsOnce"`,
      [table, PRIVILEGES, identity],
    );
    const { role, missing, unlogged, keepsOnce } = found!;
    if (missing.length > 0) {
      throw new Error(
        `the role "${role}" lacks a right on the table ${table}. Run: grant ${missing.join(', ')} on ${table} to ${quoteIdentifier(role)};`,
      );
    }
    if (unlogged.length > 0) {
      throw new Error(
        `the table ${unlogged[0]} is UNLOGGED, and PostgreSQL empties it after a crash: every key would run again. ` +
          `Run: alter table ${unlogged[0]} set logged;`,
      );
    }
    if (!keepsOnce) {
      throw new Error(
        `the table ${table} has no unique index over (${identity.join(', ')}), by which a row is kept once: nothing could be ` +
          `recorded. Run: ${uniqueIndexRemedy(table, identity)}`,
      );
    }
  }
}

/**
 * A scope, a path, a header or a step's result may hold any character, and one that has no place in the database would be
 * met only at the request that brings it: on each of its retries.
 *
 * @throws Error that says what to create
 */
export async function assertHoldsAnyText(db: Queryable): Promise<void> {
  const rows = await rowsOf<{ server_encoding: string }>(db, 'show server_encoding');
  const encoding = rows[0]!.server_encoding;
  if (encoding !== 'UTF8') {
    throw new Error(
      `the database keeps its text in ${encoding}, which cannot hold every scope or response. ` +
        `Use a database in UTF8: create database … encoding 'UTF8' template template0.`,
    );
  }
}

async function currentRole(db: Queryable): Promise<string> {
  const [row] = await rowsOf<{ role: string }>(db, 'select current_user::text as role');
  return row!.role;
}
