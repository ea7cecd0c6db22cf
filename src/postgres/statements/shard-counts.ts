/**
 * SQL, behind `with recursive`: `family` has the tables named by `$1`, a text[], each with its partitions, and `counted` what the
 * nodes of Citus count in each of their shards. The tables themselves are empty there.
 */
export const SHARD_COUNTS = `
  family as (
    select name, name::regclass::oid as oid from unnest($1::text[]) name
    union all
    select f.name, i.inhrelid from family f join pg_inherits i on i.inhparent = f.oid),
  counted as (
    select f.name, (s.result::json ->> 0)::float8 as dead, (s.result::json ->> 1)::float8 as live
    from family f join pg_catalog.pg_dist_partition p on p.logicalrelid = f.oid,
      run_command_on_shards(p.logicalrelid, 'select json_build_array(n_dead_tup, n_live_tup)
        from pg_stat_all_tables where relid = %L::regclass') s
    where s.success and s.result <> '')`;
