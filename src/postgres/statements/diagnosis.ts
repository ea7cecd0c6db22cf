import { type Queryable, rowsOf } from '../queryable.js';
import { KEYS_TABLE, STEPS_TABLE, tableName } from '../table-name.js';
import { hasUniqueIndex, ROW_IDENTITY } from './row-identity.js';
import { SHARD_COUNTS } from './shard-counts.js';
import { UNFINISHED_STATE } from './shared-statements.js';

// Long because it is a list: what `doctor` asks, and the shape of the answers.

/** What a server and a session are like. */
export interface ServerFacts {
  version: number;
  versionName: string;
  encoding: string;
  isStandby: boolean;
  readOnly: boolean;
  synchronousCommit: string;
  fsync: boolean;
  fullPageWrites: boolean;
  maxConnections: number;
  reservedConnections: number;
  statementTimeoutMs: number;
  idleInTransactionTimeoutMs: number;
  role: string;
  backendPid: number;
  clockMs: number;
}

/** What the tables are like that were found. */
export interface TableFacts {
  /** What is wrong with indexes that the statements go by, whatever their name. */
  indexes: string[];
  /** Tables in which a row could be there twice, so that ON CONFLICT refuses every one. */
  notUnique: { table: string; columns: string[] }[];
  constraints: string[];
  unlogged: string[];
  missingRights: { table: string; rights: string[] }[];
  /** Names of tables whose rows are kept elsewhere, or by partition. */
  unusual: { table: string; kind: string }[];
  /** Schemas of tables of the same name. */
  schemas: string[];
  partitioned: { table: string; partitions: number; isWhole: boolean }[];
  bloated: { table: string; deadRows: number; liveRows: number }[];
  autovacuumOff: string[];
}

/** Sessions of this database that are in a transaction and do nothing, as far as the role may see them. */
export interface IdleTransactions {
  count: number;
  oldestSeconds: number;
}

export interface KeyFacts {
  purgeLagSeconds: number;
  waiting: number;
  oldestWaitingSeconds: number;
}

/** By the names that the migrations give them; what is unique goes by its columns. */
const CONSTRAINTS = [
  'idempotency_keys_scope_length',
  'idempotency_keys_key_length',
  'idempotency_keys_fingerprint_sha256',
  'idempotency_keys_response_status_range',
  'idempotency_keys_response_headers_array',
  'idempotency_keys_response_bytes_match',
  'idempotency_keys_expires_after_created',
  'idempotency_keys_attempt_counts',
  'idempotency_keys_execution_has_attempt',
  'idempotency_keys_unfinished_is_leased',
  'idempotency_keys_finished_has_no_lease',
  'idempotency_keys_response_whole',
  'idempotency_keys_expires_after_lease',
  'idempotency_steps_name_length',
  'idempotency_steps_position_counts',
  'idempotency_steps_attempt_counts',
];
const PRIVILEGES = ['select', 'insert', 'update', 'delete'];

/**
 * What the partitions of one table `own` take together. Ranges never overlap: they leave no gap where each begins as another
 * ends, but for the first and the last.
 */
const PARTITIONS = `
  select count(*)::int4 as count, sum(1 / substring(bound from 'modulus (\\d+)')::numeric) as share,
    array_agg(substring(bound from 'FROM \\((.*)\\) TO ')) as starts, array_agg(substring(bound from ' TO \\((.*)\\)$')) as ends
  from (select pg_get_expr(c.relpartbound, c.oid) as bound
        from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = own.oid) bounds`;

/** Of `own`, a partitioned table `d`, by its `parts`: whether there is one for every row. */
const IS_WHOLE = `d.partdefid <> 0 or case d.partstrat
    when 'h' then coalesce(parts.share, 0) > 0.999999
    when 'r' then coalesce((select string_agg(s, '') ~ '^MINVALUE(, MINVALUE)*$' from unnest(parts.starts) s where s <> all (parts.ends))
      and (select string_agg(e, '') ~ '^MAXVALUE(, MAXVALUE)*$' from unnest(parts.ends) e where e <> all (parts.starts)), false)
    else false end`;

/** As many dead rows as live ones are more than any purge leaves behind that is followed by a vacuum. */
const FEWEST_DEAD_ROWS = 10_000;

/** Every question of the doctor, which looks and changes nothing. */
export class Diagnosis {
  constructor(private readonly db: Queryable) {}

  async server(): Promise<ServerFacts> {
    const [facts] = await rowsOf<ServerFacts>(
      this.db,
      `select current_setting('server_version_num')::int4 as version, current_setting('server_version') as "versionName",
         current_setting('server_encoding') as encoding, pg_is_in_recovery() as "isStandby",
         current_setting('default_transaction_read_only')::bool as "readOnly",
         current_setting('synchronous_commit') as "synchronousCommit", current_setting('fsync')::bool as fsync,
         current_setting('full_page_writes')::bool as "fullPageWrites",
         current_setting('max_connections')::int4 as "maxConnections",
         current_setting('superuser_reserved_connections')::int4
           + coalesce(current_setting('reserved_connections', true), '0')::int4 as "reservedConnections",
         (select setting::float8 from pg_settings where name = 'statement_timeout') as "statementTimeoutMs",
         (select setting::float8 from pg_settings where name = 'idle_in_transaction_session_timeout') as "idleInTransactionTimeoutMs",
         current_user::text as role, pg_backend_pid() as "backendPid",
         extract(epoch from clock_timestamp())::float8 * 1000 as "clockMs"`,
    );
    return facts!;
  }

  async tables(schema: string): Promise<TableFacts> {
    const names = [KEYS_TABLE, STEPS_TABLE].map((table) => tableName(table, schema));
    const [facts] = await rowsOf<TableFacts>(
      this.db,
      `with recursive family as (
         select name as root, name::regclass::oid as oid from unnest($1::text[]) as name
         union all
         select f.root, i.inhrelid from family f join pg_inherits i on i.inhparent = f.oid),
       own as (select c.*, f.root, f.root::regclass::oid = c.oid as is_root from family f join pg_class c on c.oid = f.oid)
       select
         array(select coalesce(i.name || ' is not valid', 'there is none on ' || own.root || ' (expires_at)')
           from own
           left join (select i.indrelid, i.indexrelid::regclass::text as name, i.indisvalid from pg_index i join pg_attribute a
                        on a.attrelid = i.indrelid and a.attnum = i.indkey[0] and a.attname = 'expires_at') i on i.indrelid = own.oid
           where own.is_root and own.root = ($1::text[])[1] and i.indisvalid is not true
             and not exists (select from pg_index v join pg_attribute a on a.attrelid = v.indrelid and a.attnum = v.indkey[0]
                             where v.indrelid = own.oid and v.indisvalid and a.attname = 'expires_at')) as indexes,
         (select coalesce(json_agg(json_build_object('table', name, 'columns', columns)), '[]')
          from (values (($1::text[])[1], $2::text[]), (($1::text[])[2], $5::text[])) t (name, columns)
          where not ${hasUniqueIndex('name::regclass', 'columns')}) as "notUnique",
         array(select want || case when c.oid is null then ' is not there' else ' is not validated' end
           from unnest($3::text[]) want
           left join pg_constraint c on c.conname = want and c.conrelid in (select oid from own where is_root)
           where c.oid is null or not c.convalidated) as constraints,
         array(select oid::regclass::text from own where relpersistence = 'u') as unlogged,
         (select coalesce(json_agg(json_build_object('table', t.name, 'rights', t.rights)), '[]')
          from (select name, array(select p from unnest($4::text[]) p where not has_table_privilege(name, p)) as rights
                from unnest($1::text[]) name) t where cardinality(t.rights) > 0) as "missingRights",
         (select coalesce(json_agg(json_build_object('table', oid::regclass::text, 'kind', case
              when relkind = 'f' then 'a foreign table'
              when relkind = 'p' then 'partitioned'
              else 'a parent of others by INHERITS' end)), '[]')
          from own where is_root and (relkind in ('f', 'p') or exists (select from pg_inherits where inhparent = own.oid))) as unusual,
         (select coalesce(json_agg(json_build_object('table', own.oid::regclass::text, 'partitions', parts.count,
                 'isWhole', ${IS_WHOLE})), '[]')
          from own join pg_partitioned_table d on d.partrelid = own.oid,
            lateral (${PARTITIONS}) parts) as partitioned,
         array(select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
           where c.relname = '${KEYS_TABLE}' and c.relkind in ('r', 'p', 'f') order by 1) as schemas,
         (select coalesce(json_agg(json_build_object('table', s.relid::regclass::text, 'deadRows', s.n_dead_tup, 'liveRows', s.n_live_tup)), '[]')
          from pg_stat_all_tables s join own on own.oid = s.relid
          where s.n_dead_tup > ${FEWEST_DEAD_ROWS} and s.n_dead_tup > s.n_live_tup) as bloated,
         array(select oid::regclass::text from own where 'autovacuum_enabled=false' = any (reloptions)
           or 'autovacuum_enabled=off' = any (reloptions)) as "autovacuumOff"`,
      [names, ROW_IDENTITY[KEYS_TABLE], CONSTRAINTS, PRIVILEGES, ROW_IDENTITY[STEPS_TABLE]],
    );
    return facts!;
  }

  /** The same of tables that Citus has: their rows are in shards, which each node counts for itself. */
  async bloatedShards(schema: string): Promise<TableFacts['bloated']> {
    return rowsOf<TableFacts['bloated'][number]>(
      this.db,
      `with recursive ${SHARD_COUNTS}
       select name::regclass::text as table, sum(dead) as "deadRows", sum(live) as "liveRows" from counted
       group by name
       having sum(dead) > greatest(${FEWEST_DEAD_ROWS}, sum(live))`,
      [[KEYS_TABLE, STEPS_TABLE].map((table) => tableName(table, schema))],
    );
  }

  /** Those of more than so many seconds. */
  async idleTransactions(longerThanSeconds: number): Promise<IdleTransactions> {
    const [facts] = await rowsOf<IdleTransactions>(
      this.db,
      `select count(*)::int4 as count, coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8 as "oldestSeconds"
       from pg_stat_activity
       where datname = current_database() and state like 'idle in transaction%'
         and state_change < clock_timestamp() - $1::float8 * interval '1 s'`,
      [longerThanSeconds],
    );
    return facts!;
  }

  /** By the index on the expiry alone: what waits for an operator never expires. Two looks, for Citus, which takes no other. */
  async keys(schema: string): Promise<KeyFacts> {
    const keys = tableName(KEYS_TABLE, schema);
    const [due] = await rowsOf<Pick<KeyFacts, 'purgeLagSeconds'>>(
      this.db,
      `select coalesce(extract(epoch from clock_timestamp() - min(expires_at)), 0)::float8 as "purgeLagSeconds"
       from ${keys} where expires_at <= clock_timestamp()`,
    );
    const [waiting] = await rowsOf<Omit<KeyFacts, 'purgeLagSeconds'>>(
      this.db,
      `select count(*)::int4 as waiting,
         coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 as "oldestWaitingSeconds"
       from ${keys} where expires_at = 'infinity' and ${UNFINISHED_STATE} = 'interrupted'`,
    );
    return { ...due!, ...waiting! };
  }
}
