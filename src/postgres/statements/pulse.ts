import { type Queryable, rowsOf } from '../queryable.js';
import { KEYS_TABLE, tableName } from '../table-name.js';
import { UNFINISHED_STATE } from './shared-statements.js';

/** What can be told of the tables in one cheap look, by the index on the expiry. */
export interface Pulse {
  writable: boolean;
  /** Keys that have expired and wait for the purge; at most {@link COUNTED_UP_TO}. */
  expired: number;
  /** How long the oldest of them has waited. */
  purgeLagMs: number;
  /** Operations that wait for an operator. */
  waiting: number;
}

/** More are not worth the time to count them. */
export const COUNTED_UP_TO = 100_000;

/** @throws the driver's error where the store is out of reach, or its tables are not there */
export async function takePulse(db: Queryable, schema: string | undefined): Promise<Pulse> {
  const keys = tableName(KEYS_TABLE, schema);
  const [pulse] = await rowsOf<Pulse>(
    db,
    `select current_setting('transaction_read_only') = 'off' as writable,
       (select count(*)::int4 from (select 1 from ${keys} where expires_at <= clock_timestamp() limit ${COUNTED_UP_TO}) due) as expired,
       coalesce((select extract(epoch from clock_timestamp() - min(expires_at)) from ${keys}
         where expires_at <= clock_timestamp()), 0)::float8 * 1000 as "purgeLagMs",
       (select count(*)::int4 from ${keys} where expires_at = 'infinity' and ${UNFINISHED_STATE} = 'interrupted') as waiting`,
  );
  return pulse!;
}
