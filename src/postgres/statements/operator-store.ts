import type { HeaderLine } from '../../protocol/response.js';
import { type Attention, type KeyIdentity, type UnfinishedState } from '../../protocol/stored-key.js';
import { type Queryable, rowsOf } from '../queryable.js';
import { tablesIn } from '../table-name.js';
import { OBSERVED_SCOPE, observedScope } from './observed-keys.js';
import { SHARD_COUNTS } from './shard-counts.js';
import { epochMs, UNFINISHED_STATE } from './shared-statements.js';

/** `observed`: met in observe mode, so that no request of another mode ever finds it. */
export const KEY_STATES = ['completed', 'running', 'interrupted', 'released', 'steps-changed', 'observed'] as const;
export type KeyState = 'completed' | 'observed' | UnfinishedState;

export interface KeyFilter {
  state?: KeyState | undefined;
  method?: string | undefined;
  /** What the path begins with. */
  path?: string | undefined;
  scope?: string | undefined;
  /** Whether those that have expired, and wait for the purge, are meant, too. */
  expired?: boolean | undefined;
  /** The last one of the page before. */
  after?: KeyIdentity | undefined;
  limit: number;
}

export interface ListedKey extends KeyIdentity {
  state: KeyState;
  method: string;
  path: string;
  status: number | null;
  bytes: number | null;
  attempt: number | null;
  createdAt: Date;
  /** `null` for one that waits for an operator. */
  expiresAt: Date | null;
  expired: boolean;
}

export interface ShownStep {
  name: string;
  position: number;
  attempt: number;
  at: Date;
  /** What became of it, without what it returned; `sealed` where it is encrypted. */
  ended: 'returned' | 'threw' | 'lost' | 'sealed';
}

export interface ShownKey extends ListedKey {
  leaseExpiresAt: Date | null;
  attention: Attention | null;
  headers: HeaderLine[] | null;
  /** Only where it was asked for. */
  body: Buffer | null;
  bodyKept: boolean;
  steps: ShownStep[];
}

export interface KeyStatistics {
  rows: number;
  states: Record<KeyState, number>;
  expired: number;
  /** How long the oldest expired key has waited for the purge. */
  purgeLagSeconds: number;
  /** How long ago the oldest operation of lease mode began that runs. */
  oldestInFlightSeconds: number;
  ages: { upToSeconds: number | null; keys: number }[];
  /** The most frequent first; numbers and UUIDs in the path are one. */
  routes: { method: string; path: string; keys: number }[];
  scopes: { scope: string; keys: number }[];
  disk: { keysBytes: number; indexesBytes: number; stepsBytes: number; deadRows: number };
}

const HOUR_S = 3_600;
const AGES_S = [HOUR_S, 6 * HOUR_S, 24 * HOUR_S, 7 * 24 * HOUR_S];

const IS_OBSERVED = `starts_with(scope, '${OBSERVED_SCOPE}')`;
const STATE = `case when ${IS_OBSERVED} then 'observed' else coalesce(${UNFINISHED_STATE}, 'completed') end`;
const COLUMNS = `k.scope, k.key, ${STATE} as state, k.method, k.path, k.response_status as status,
  k.response_bytes::float8 as bytes, k.attempt, ${epochMs('k.created_at')} as created_at_ms,
  ${epochMs('k.expires_at')} as expires_at_ms, k.expires_at <= clock_timestamp() as expired`;

interface KeyRow extends Omit<ListedKey, 'createdAt' | 'expiresAt'> {
  created_at_ms: string;
  /** `null` for `infinity`. */
  expires_at_ms: string | null;
}

/**
 * What operators ask. Each reads as much as it has to, which of a large table may take a while.
 *
 * It is long because each question is one statement, and what it answers is declared beside it.
 */
export class OperatorStore {
  private readonly keys: string;
  private readonly steps: string;

  constructor(
    private readonly db: Queryable,
    schema: string | undefined,
    /** Whether the tables are those of Citus: see {@link KeyTables.isDistributed}. */
    private readonly isDistributed = false,
  ) {
    ({ keys: this.keys, steps: this.steps } = tablesIn(schema));
  }

  /** In the order of the primary key, which pages walk along. */
  async list({ state, method, path, scope, expired, after, limit }: KeyFilter): Promise<ListedKey[]> {
    const rows = await rowsOf<KeyRow>(
      this.db,
      `select ${COLUMNS} from ${this.keys} k
       where ($1::text is null or ${STATE} = $1::text) and ($2::text is null or k.method = $2::text)
         and ($3::text is null or starts_with(k.path, $3::text)) and ($4::text is null or k.scope in ($4::text, $9::text))
         and ($5::bool or k.expires_at > clock_timestamp())
         and ($6::text is null or (k.scope, k.key) > ($6::text, $7::text))
       order by k.scope, k.key limit $8::int4`,
      [
        state,
        method,
        path,
        scope,
        expired === true,
        after?.scope,
        after?.key,
        limit,
        scope === undefined ? undefined : observedScope(scope),
      ],
    );
    return rows.map(listedOf);
  }

  /** @param withBody what was answered to the client may be nobody else's business */
  async show({ scope, key }: KeyIdentity, withBody: boolean): Promise<ShownKey | undefined> {
    const [row] = await rowsOf<
      KeyRow & {
        lease_expires_at_ms: string | null;
        attention: Attention | null;
        headers: HeaderLine[] | null;
        body: string | null;
        body_kept: boolean;
        execution: string | null;
      }
    >(
      this.db,
      `select ${COLUMNS}, ${epochMs('k.lease_expires_at')} as lease_expires_at_ms, k.attention,
         k.response_headers as headers, case when $3::bool then encode(k.response_body, 'hex') end as body,
         k.response_body is not null as body_kept, k.execution_id as execution
       from ${this.keys} k where k.scope = $1::text and k.key = $2::text`,
      [scope, key, withBody],
    );
    if (row === undefined) {
      return undefined;
    }
    const lease = row.lease_expires_at_ms;
    return {
      ...listedOf(row),
      leaseExpiresAt: lease === null ? null : new Date(Number(lease)),
      attention: row.attention,
      headers: row.headers,
      body: row.body === null ? null : Buffer.from(row.body, 'hex'),
      bodyKept: row.body_kept,
      steps: row.execution === null ? [] : await this.stepsOf(row.execution),
    };
  }

  /** @param top how many routes and scopes are told, those with the most keys */
  async statistics(top: number): Promise<KeyStatistics> {
    const [all] = await rowsOf<{
      rows: string;
      states: Record<string, number>;
      expired: string;
      lag: string | null;
      oldest: string | null;
      ages: number[];
    }>(
      this.db,
      `select count(*) as rows, count(*) filter (where expired) as expired,
         extract(epoch from clock_timestamp() - min(expires_at) filter (where expired)) as lag,
         extract(epoch from clock_timestamp() - min(created_at) filter (where state = 'running')) as oldest,
         json_build_object(${KEY_STATES.map((state) => `'${state}', count(*) filter (where state = '${state}' and not expired)`).join(', ')}) as states,
         array[${[...AGES_S, null].map((upTo) => `count(*) filter (where age_s ${upTo === null ? 'is not null' : `< ${upTo}`})::float8`).join(', ')}] as ages
       from (select k.created_at, k.expires_at, ${STATE} as state, k.expires_at <= clock_timestamp() as expired,
               extract(epoch from clock_timestamp() - k.created_at) as age_s
             from ${this.keys} k) as keys`,
    );
    const { rows, states, expired, lag, oldest, ages } = all!;
    return {
      rows: Number(rows),
      states: states as Record<KeyState, number>,
      expired: Number(expired),
      purgeLagSeconds: Math.round(Number(lag ?? 0)),
      oldestInFlightSeconds: Math.round(Number(oldest ?? 0)),
      ages: [...AGES_S, null].map((upToSeconds, index) => ({
        upToSeconds,
        keys: ages[index]! - (ages[index - 1] ?? 0),
      })),
      routes: await rowsOf(
        this.db,
        String.raw`select method, regexp_replace(path, '/(\d+|[0-9a-fA-F-]{32,36})(?=/|$)', '/:id', 'g') as path, count(*)::int4 as keys
         from ${this.keys} where not ${IS_OBSERVED} group by 1, 2 order by 3 desc, 1, 2 limit $1::int4`,
        [top],
      ),
      scopes: await rowsOf(
        this.db,
        `select scope, count(*)::int4 as keys from ${this.keys} where not ${IS_OBSERVED} group by 1 order by 2 desc, 1 limit $1::int4`,
        [top],
      ),
      disk: await this.disk(),
    };
  }

  private async stepsOf(execution: string): Promise<ShownStep[]> {
    const rows = await rowsOf<Omit<ShownStep, 'at'> & { at_ms: string }>(
      this.db,
      `select name, position, attempt, ${epochMs('created_at')} as at_ms,
         case when outcome -> 'sealed' is not null and outcome -> 'lost' is null then 'sealed' when outcome -> 'lost' is not null then 'lost' when outcome -> 'threw' is not null then 'threw'
           else 'returned' end as ended
       from ${this.steps} where execution_id = $1::uuid and outcome -> 'keysUsedUp' is null order by position, created_at`,
      [execution],
    );
    return rows.map(({ at_ms: atMs, ...step }) => ({ ...step, at: new Date(Number(atMs)) }));
  }

  /** With what is in partitions, or shards. */
  async disk(): Promise<KeyStatistics['disk']> {
    const [row] = await rowsOf<Record<keyof KeyStatistics['disk'], number>>(
      this.db,
      this.isDistributed ? this.diskOfShards : this.diskHere,
      [[this.keys, this.steps]],
    );
    const { keysBytes, indexesBytes, stepsBytes, deadRows } = row!;
    return { keysBytes, indexesBytes, stepsBytes, deadRows };
  }

  private get diskHere(): string {
    return `with recursive family as (
         select table_name, table_name::regclass::oid as relid from unnest($1::text[]) as table_name
         union all
         select f.table_name, i.inhrelid from family f join pg_inherits i on i.inhparent = f.relid),
       sizes as (
         select table_name = ($1::text[])[1] as of_keys, sum(pg_table_size(f.relid))::float8 as heap,
           sum(pg_indexes_size(f.relid))::float8 as indexes, coalesce(sum(s.n_dead_tup), 0)::float8 as dead
         from family f left join pg_stat_all_tables s on s.relid = f.relid group by 1)
       select keys.heap as "keysBytes", keys.indexes as "indexesBytes", steps.heap + steps.indexes as "stepsBytes",
         keys.dead as "deadRows"
       from sizes keys, sizes steps where keys.of_keys and not steps.of_keys`;
  }

  private get diskOfShards(): string {
    return `with recursive ${SHARD_COUNTS},
       sizes as (
         select name = ($1::text[])[1] as of_keys, sum(citus_table_size(oid))::float8 as heap,
           sum(citus_total_relation_size(oid))::float8 as total
         from family where oid in (select logicalrelid from pg_catalog.pg_dist_partition) group by 1)
       select keys.heap as "keysBytes", keys.total - keys.heap as "indexesBytes", coalesce(steps.total, 0) as "stepsBytes",
         (select coalesce(sum(dead), 0) from counted where name = ($1::text[])[1]) as "deadRows"
       from sizes keys left join sizes steps on not steps.of_keys where keys.of_keys`;
  }
}

function listedOf(row: KeyRow): ListedKey {
  const { scope, key, state, method, path, status, bytes, attempt, expired } = row;
  const expires = row.expires_at_ms;
  return {
    scope,
    key,
    state,
    method,
    path,
    status,
    bytes,
    attempt,
    createdAt: new Date(Number(row.created_at_ms)),
    expiresAt: expires === null ? null : new Date(Number(expires)),
    expired,
  };
}
