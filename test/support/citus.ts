import { Client } from 'pg';
import { KEYS_TABLE, STEPS_TABLE } from '../../src/postgres/table-name.js';
import { databaseUrl } from './database.js';
import { turnTablesInto } from './table-kinds.js';

/** The other servers of a Citus cluster, where `npm run test:citus` runs the tests; PostgreSQL alone has none. */
export const WORKERS = (process.env['TEST_CITUS_WORKERS'] ?? '').split(',').filter((url) => url !== '');

/** What Citus can make of the library's tables; docs/scaling.md says why reference tables are not among them. */
export const CITUS_KINDS = ['distributed', 'single-shard', 'managed'] as const;

/** What else people may make of them, which is the same to our statements. */
export const OTHER_CITUS_KINDS = ['by scope', 'partitioned and distributed'] as const;
export type CitusKind = (typeof CITUS_KINDS | typeof OTHER_CITUS_KINDS)[number];

/** Business tables made by TypeORM are to commit with keys that are elsewhere. */
export const MANAGED_BY_DEFAULT = 'citus.use_citus_managed_tables = on';

/** On managed tables they run as on plain ones. */
export const TRIGGERS_ALLOWED = 'citus.enable_unsafe_triggers = on';

/** Few: each query over all of them takes a connection for each, and each database has its own. */
const SHARDS = 4;

/** Puts a database of this name, which is on each of the servers, under Citus. */
export async function addNodes(coordinator: string, workers: readonly string[], database: string): Promise<void> {
  for (const url of [coordinator, ...workers]) {
    await statements(databaseUrl(url, database), ['create extension citus']);
  }
  const add = (call: string, url: string): string => {
    const { hostname, port } = new URL(url);
    return `select ${call}('${hostname}', ${port || 5432})`;
  };
  await statements(databaseUrl(coordinator, database), [
    add('citus_set_coordinator_host', coordinator),
    ...workers.map((url) => add('citus_add_node', url)),
  ]);
}

const DISTRIBUTED = [
  `set citus.shard_count = ${SHARDS}`,
  `select create_distributed_table('${KEYS_TABLE}', 'key', colocate_with => 'none')`,
  `select create_distributed_table('${STEPS_TABLE}', 'execution_id', colocate_with => 'none')`,
];

/** Makes the library's tables, which are plain ones, ones of Citus. */
export async function turnTablesIntoCitus(kind: CitusKind, url: string): Promise<void> {
  const calls: Record<CitusKind, string[]> = {
    distributed: DISTRIBUTED,
    'single-shard': [
      `select create_distributed_table('${KEYS_TABLE}', null, colocate_with => 'none')`,
      `select create_distributed_table('${STEPS_TABLE}', null, colocate_with => '${KEYS_TABLE}')`,
    ],
    managed: [KEYS_TABLE, STEPS_TABLE].map((table) => `select citus_add_local_table_to_metadata('${table}')`),
    'by scope': [
      `set citus.shard_count = ${SHARDS}`,
      `select create_distributed_table('${KEYS_TABLE}', 'scope', colocate_with => 'none')`,
      `select create_distributed_table('${STEPS_TABLE}', 'execution_id', colocate_with => 'none')`,
    ],
    'partitioned and distributed': DISTRIBUTED,
  };
  if (kind === 'partitioned and distributed') {
    await turnTablesInto('8 HASH partitions', url);
  }
  await statements(url, calls[kind]);
}

async function statements(url: string, all: readonly string[]): Promise<void> {
  const client = new Client(url);
  await client.connect();
  try {
    for (const sql of all) {
      await client.query(sql);
    }
  } finally {
    await client.end();
  }
}
