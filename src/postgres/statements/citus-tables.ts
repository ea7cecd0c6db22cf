import { type Queryable, rowsOf } from '../queryable.js';
import { KEYS_TABLE, quoteIdentifier, STEPS_TABLE, tableName } from '../table-name.js';

/** What Citus makes of the tables; nothing where there is no Citus. */
export interface CitusTables {
  /** Those of the library that it does not know: plain tables of the one node that the application is connected to. */
  plain: string[];
  /** Whether the table of keys itself has rows on other nodes. */
  keysElsewhere: boolean;
  /** Whether one of these is partitioned, which Citus can distribute, but not manage on one node. */
  isPartitioned: boolean;
  /** Those of the library that are reference tables. */
  replicated: string[];
  /** A table whose rows are on other nodes, for a message; there may be more. */
  elsewhere: string | undefined;
}

/** Citus' own list of tables: it is the same on each node that has the metadata. */
const LIST = 'pg_catalog.pg_dist_partition';

/** Of those that Citus knows only the ones that it manages on this node alone have no shard elsewhere. */
const IS_ELSEWHERE = `(partmethod <> 'n' or repmodel = 't' or colocationid <> 0)`;

export async function findCitusTables(db: Queryable, schema: string): Promise<CitusTables | undefined> {
  const [citus] = await rowsOf<{ there: boolean }>(db, 'select to_regclass($1::text) is not null as there', [LIST]);
  if (!citus!.there) {
    return undefined;
  }
  const [found] = await rowsOf<Omit<CitusTables, 'elsewhere'> & { elsewhere: string | null }>(
    db,
    `select array(select name from unnest($1::text[]) name
                  where not exists (select from ${LIST} where logicalrelid = name::regclass)) as plain,
            exists (select from ${LIST} where logicalrelid = ($1::text[])[1]::regclass and ${IS_ELSEWHERE}) as "keysElsewhere",
            exists (select from pg_class where oid = any ($1::text[]::regclass[]) and relkind = 'p') as "isPartitioned",
            array(select name from unnest($1::text[]) name
                  where exists (select from ${LIST} where logicalrelid = name::regclass and repmodel = 't')) as replicated,
            (select min(logicalrelid::text) from ${LIST} where ${IS_ELSEWHERE}) as elsewhere`,
    [[KEYS_TABLE, STEPS_TABLE].map((name) => tableName(name, schema))],
  );
  const { elsewhere, ...own } = found!;
  return { ...own, elsewhere: elsewhere ?? undefined };
}

/**
 * The other way round: keys that are elsewhere commit before what a handler has written to a plain table, and a crash
 * between the two keeps a key without its writes.
 *
 * @param tables those of the DataSource's entities, quoted
 * @returns what to warn of, and what to run; nothing where all is well
 */
export async function adviceOnPlainTables(db: Queryable, tables: readonly string[]): Promise<string | undefined> {
  const rows = await rowsOf<{ name: string }>(
    db,
    `select distinct c.oid::regclass::text as name from unnest($1::text[]) t join pg_class c on c.oid = to_regclass(t)
     where c.relkind in ('r', 'p') and not exists (select from ${LIST} where logicalrelid = c.oid) order by 1`,
    [tables],
  );
  if (rows.length === 0) {
    return undefined;
  }
  const calls = rows.map(({ name }) => `select citus_add_local_table_to_metadata('${name.replaceAll("'", "''")}');`);
  return (
    `The keys are on other nodes of Citus than ${rows.map(({ name }) => name).join(', ')}, which it does not commit together ` +
    `with them: a crash can keep a key without what its handler wrote there. Where a handler with @Idempotent() writes ` +
    `to such a table, run on the coordinator: ${calls.join(' ')}`
  );
}

/**
 * A COMMIT that is sent to one worker alone is not a two-phase one, and Citus does not count a plain table of the node
 * that sends it: a crash between the two leaves an order without its key, which a retry then doubles.
 *
 * @throws Error that says what to run
 */
export function assertCommitsTogether(citus: CitusTables, schema: string): void {
  const found = commitsApart(citus, schema);
  if (found !== undefined) {
    throw new Error(`${found.problem}. ${found.remedy}`);
  }
}

/** Nothing where all commits together. */
export function commitsApart(
  { plain, keysElsewhere, isPartitioned, elsewhere }: CitusTables,
  schema: string,
): { problem: string; remedy: string } | undefined {
  if (plain.length === 0 || elsewhere === undefined) {
    return undefined;
  }
  const local = plain.map((table) => call('citus_add_local_table_to_metadata', table)).join(' ');
  const distributed = plain.map((table) => distribute(table, schema)).join(' ');
  // What a migration has added to keys that Citus has: steps go where these are.
  const besideKeys = keysElsewhere ? distributed : local;
  const either = isPartitioned ? distributed : `either ${local} or ${distributed}`;
  const remedy = plain.length === 2 ? either : besideKeys;
  return {
    problem:
      `the table ${plain[0]} is a plain table beside distributed ones (${elsewhere}), and Citus does not commit the two ` +
      `together: a crash can keep a handler's writes without its key`,
    remedy: `Run, on the coordinator, ${remedy} If no handler with @Idempotent() writes to such a table, say so by the option \`localWrites: true\`.`,
  };
}

/**
 * Each write of a reference table goes to all nodes under one lock, which lasts to the COMMIT: requests of different keys
 * take turns, and where they need both tables wait for each other in circles.
 *
 * @returns what is found, and what to run; nothing where none is one
 */
export function findingOnReplicas(
  { replicated }: CitusTables,
  schema: string,
): { problem: string; remedy: string } | undefined {
  if (replicated.length === 0) {
    return undefined;
  }
  const calls = replicated.flatMap((table) => [call('undistribute_table', table), distribute(table, schema)]);
  return {
    problem:
      `Citus has ${replicated.join(' and ')} as ${replicated.length === 1 ? 'a reference table' : 'reference tables'}, which ` +
      `one request at a time can write to: many at once wait for each other in circles, and get 503 when Citus ends these`,
    remedy: `Stop the application, and run on the coordinator: begin; ${calls.join(' ')} commit;`,
  };
}

function distribute(table: string, schema: string): string {
  const column = table === tableName(KEYS_TABLE, schema) ? 'key' : 'execution_id';
  return call('create_distributed_table', table, `, '${column}', colocate_with => 'none'`);
}

function call(name: string, table: string, rest = ''): string {
  return `select ${name}('${table.replaceAll("'", "''")}'${rest});`;
}

/**
 * As Citus writes them for its workers, which read them by their own settings.
 *
 * @throws Error that says what to run
 */
export async function assertReadableLiterals(db: Queryable): Promise<void> {
  const [unlike] = await rowsOf<{ role: string; name: string; value: string; wanted: string }>(
    db,
    `select current_user::text as role, name, current_setting(name) as value, wanted
     from (values ('datestyle', 'ISO'), ('standard_conforming_strings', 'on')) as settings (name, wanted)
     where current_setting(name) not like wanted || '%'`,
  );
  if (unlike !== undefined) {
    const { role, name, value, wanted } = unlike;
    throw new Error(
      `sessions of the role "${role}" have ${name} = '${value}', by which Citus writes what its workers read by theirs: keys ` +
        `would expire on another day, or be kept under another name. Run: alter role ${quoteIdentifier(role)} set ${name} = ` +
        `'${wanted}'; or see who has set it.`,
    );
  }
}
