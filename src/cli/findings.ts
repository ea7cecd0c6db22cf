import { type CitusTables, commitsApart, findingOnReplicas } from '../postgres/statements/citus-tables.js';
import type { IdleTransactions, KeyFacts, ServerFacts, TableFacts } from '../postgres/statements/diagnosis.js';
import type { Pooler } from './pooler.js';
import { uniqueIndexRemedy } from '../postgres/statements/row-identity.js';
import { quoteIdentifier } from '../postgres/table-name.js';
import { durationOf } from './table.js';

/**
 * What `doctor` says, and what helps. This file is long because it is the list of all that it knows of servers and tables.
 */
export interface Finding {
  /** What was looked at. */
  readonly check: string;
  readonly problem: string;
  readonly remedy: string;
}

const OLDEST_VERSION = 130_000;

/** Leases are by the database's clock alone; what operators read side by side is not. */
const LARGEST_SKEW_MS = 2_000;

/** Six purges at the default interval. */
const LARGEST_PURGE_LAG_S = 3_600;

export function findingsOnServer(server: ServerFacts, skewMs: number): Finding[] {
  const found: (Finding | false)[] = [
    server.version < OLDEST_VERSION && {
      check: 'version',
      problem: `this is PostgreSQL ${server.versionName}`,
      remedy: 'Use PostgreSQL 13 or later.',
    },
    server.encoding !== 'UTF8' && {
      check: 'encoding',
      problem: `the database keeps its text in ${server.encoding}, which cannot hold every scope or response`,
      remedy: `Use a database in UTF8: create database … encoding 'UTF8' template template0.`,
    },
    server.isStandby && {
      check: 'standby',
      problem: 'this server is a standby: nothing can be claimed here',
      remedy: 'Connect to the primary.',
    },
    !server.isStandby &&
      server.readOnly && {
        check: 'read-only',
        problem: 'default_transaction_read_only is on: nothing can be claimed here',
        remedy: `Run: alter role ${quoteIdentifier(server.role)} set default_transaction_read_only = off; or see who has set it, and why.`,
      },
    server.synchronousCommit === 'off' && {
      check: 'synchronous_commit',
      problem: 'synchronous_commit is off: the last commits before a crash of the server are lost',
      remedy:
        'The library switches it on for its own commits, so keys are safe. Set it to on where the writes of other routes must be as well.',
    },
    !server.fsync && {
      check: 'fsync',
      problem: 'fsync is off: a crash of the machine may lose or corrupt anything',
      remedy: 'Set fsync = on, and restart the server.',
    },
    !server.fullPageWrites && {
      check: 'full_page_writes',
      problem: 'full_page_writes is off: a crash of the machine may corrupt pages',
      remedy: 'Set full_page_writes = on, unless the file system writes pages as a whole.',
    },
    ...timeouts(server),
    Math.abs(skewMs) > LARGEST_SKEW_MS && {
      check: 'clock',
      problem: `this machine and the server differ by ${(Math.abs(skewMs) / 1000).toFixed(1)} s`,
      remedy: "Have both keep their time by NTP. Expiry and leases go by the server's clock, logs by each its own.",
    },
  ];
  return found.filter((each) => each !== false);
}

/** The library sets both limits for its own transactions; in `ctx.transaction` a stricter one of the statement counts. */
function timeouts({ statementTimeoutMs }: ServerFacts): (Finding | false)[] {
  return [
    statementTimeoutMs > 0 &&
      statementTimeoutMs < 1_000 && {
        check: 'statement_timeout',
        problem: `statement_timeout is ${statementTimeoutMs} ms: a claim that waits for a busy disk fails with 503`,
        remedy: `Raise it above 1 s for the role of the application.`,
      },
  ];
}

export interface PoolFacts {
  readonly poolSize: number | undefined;
  readonly instances: number | undefined;
  /** What answers in the server's place, where something does. */
  readonly pooler: Pooler | undefined;
}

export function findingsOnPool(server: ServerFacts, { poolSize, instances = 1, pooler }: PoolFacts): Finding[] {
  const open = server.maxConnections - server.reservedConnections;
  const wanted = (poolSize ?? 0) * instances;
  const found: (Finding | false)[] = [
    pooler === undefined &&
      wanted > open && {
        check: 'pool',
        problem: `${instances} instances with a pool of ${poolSize} may ask for ${wanted} connections, and the server has ${open} for all`,
        remedy: `Make the pools smaller (at most ${Math.max(Math.floor(open / instances), 1)}), raise max_connections, or put PgBouncer in between.`,
      },
    pooler?.mode === 'statement' && {
      check: 'pooler',
      problem: 'there is a pooler in between that lends a session for one statement: no transaction can be begun',
      remedy: 'Use pool_mode = transaction, or session, of PgBouncer. The tables were not looked at.',
    },
    pooler?.mode === 'transaction' &&
      !pooler.tracksStatements && {
        check: 'pooler',
        problem:
          'there is a pooler in between that lends a session for one transaction, and does not know which statements were prepared in it',
        remedy:
          'With PgBouncer 1.21 and later set max_prepared_statements to 100 or more; before it use pool_mode = session.',
      },
  ];
  return found.filter((each) => each !== false);
}

/** How long a transaction may do nothing before it is told of. No handler is given as much by default. */
export const LONGEST_IDLE_S = 600;

/** The library limits its own transactions; those of others hold back the vacuum of its tables, and their locks. */
export function findingsOnIdleTransactions(
  { idleInTransactionTimeoutMs, role }: ServerFacts,
  { count, oldestSeconds }: IdleTransactions,
): Finding[] {
  const off = idleInTransactionTimeoutMs === 0 ? ', and idle_in_transaction_session_timeout is off' : '';
  return count === 0
    ? []
    : [
        {
          check: 'idle_in_transaction_session_timeout',
          problem: `${count} ${count === 1 ? 'session is' : 'sessions are'} idle in a transaction, the oldest for ${durationOf(Math.round(oldestSeconds))}${off}: no row that was deleted since can be removed, and locks stay`,
          remedy: `See whose they are: select pid, usename, application_name, xact_start, query from pg_stat_activity where state like 'idle in transaction%' order by xact_start; end them by pg_terminate_backend(pid). For the time to come: alter role ${quoteIdentifier(role)} set idle_in_transaction_session_timeout = '5min';`,
        },
      ];
}

export function findingsOnCitus(citus: CitusTables | undefined, schema: string): Finding[] {
  const found = citus === undefined ? [] : [commitsApart(citus, schema), findingOnReplicas(citus, schema)];
  return found.filter((each) => each !== undefined).map((each) => ({ check: 'citus', ...each }));
}

export function findingsOnTables(
  facts: TableFacts,
  { schema, isNamed, role }: { schema: string; isNamed: boolean; role: string },
): Finding[] {
  const found: (Finding | false)[] = [
    facts.indexes.length > 0 && {
      check: 'index',
      problem: `the purge has no index to go by: ${facts.indexes.join(', ')}`,
      remedy:
        'Make it again as the migrations do (npx nestjs-idempotency migration:sql on an empty database prints them), with create index concurrently; drop an invalid one first.',
    },
    ...facts.notUnique.map(({ table, columns }) => ({
      check: 'unique',
      problem: `${table} has no unique index over (${columns.join(', ')}), by which a row is kept once: no instance starts`,
      remedy: `Run: ${uniqueIndexRemedy(table, columns)}`,
    })),
    facts.constraints.length > 0 && {
      check: 'constraint',
      problem: facts.constraints.join(', '),
      remedy:
        'Add it again as the migrations do; one that is not validated: alter table … validate constraint …, which lets others go on.',
    },
    ...facts.unlogged.map((table) => ({
      check: 'unlogged',
      problem: `${table} is UNLOGGED, and PostgreSQL empties it after a crash: every key would run again`,
      remedy: `Run: alter table ${table} set logged;`,
    })),
    ...facts.missingRights.map(({ table, rights }) => ({
      check: 'rights',
      problem: `the role "${role}" lacks ${rights.join(', ')} on ${table}`,
      remedy: `Run: grant ${rights.join(', ')} on ${table} to ${quoteIdentifier(role)};`,
    })),
    !isNamed &&
      facts.schemas.length > 1 && {
        check: 'search_path',
        problem: `there are tables of keys in the schemas ${facts.schemas.join(', ')}, and the search_path of a session decides which one it means (here ${schema})`,
        remedy: `Name it by the module's option: schema: '${schema}'. Drop the other ones if nobody uses them.`,
      },
    ...facts.unusual
      .filter(({ kind }) => kind !== 'partitioned')
      .map(({ table, kind }) => ({
        check: 'table',
        problem: `${table} is ${kind}: a unique key does not hold across all of its rows`,
        remedy: 'Keep the keys in one ordinary table, or in one that is partitioned by scope or key.',
      })),
    ...facts.partitioned
      .filter(({ isWhole }) => !isWhole)
      .map(({ table, partitions }) => ({
        check: 'partitions',
        problem: `${table} has ${partitions} ${partitions === 1 ? 'partition' : 'partitions'}, and rows that belong into none of them are refused: their requests get 503`,
        remedy: `Add what is missing: partitions by HASH for each remainder (see \\d+ ${table}), of other kinds a DEFAULT one; npx nestjs-idempotency migration:sql --partitions 8 on a database with plain tables prints a whole set.`,
      })),
    ...facts.bloated.map(({ table, deadRows, liveRows }) => ({
      check: 'bloat',
      problem: `${table} has ${deadRows} dead rows beside ${liveRows} live ones`,
      remedy: `Run: vacuum (analyze) ${table}; if it comes back, lower autovacuum_vacuum_scale_factor of the table, and look for long transactions in pg_stat_activity.`,
    })),
    ...facts.autovacuumOff.map((table) => ({
      check: 'autovacuum',
      problem: `autovacuum is off for ${table}: what the purge deletes stays on disk`,
      remedy: `Run: alter table ${table} reset (autovacuum_enabled);`,
    })),
  ];
  return found.filter((each) => each !== false);
}

export function findingsOnKeys(
  { purgeLagSeconds, waiting, oldestWaitingSeconds }: KeyFacts,
  option: string,
): Finding[] {
  const found: (Finding | false)[] = [
    purgeLagSeconds > LARGEST_PURGE_LAG_S && {
      check: 'purge',
      problem: `the oldest expired key has waited for the purge for ${durationOf(Math.round(purgeLagSeconds))}`,
      remedy: `See that an instance runs with \`purge\` on, or schedule: npx nestjs-idempotency purge${option}`,
    },
    waiting > 0 && {
      check: 'interrupted',
      problem: `${waiting} ${waiting === 1 ? 'operation waits' : 'operations wait'} for an operator, the oldest for ${durationOf(Math.round(oldestWaitingSeconds))}`,
      remedy: `See them by: npx nestjs-idempotency list --state interrupted${option}; look up at the provider what came of each, then resolve or release it.`,
    },
  ];
  return found.filter((each) => each !== false);
}
