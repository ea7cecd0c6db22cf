import { randomUUID } from 'node:crypto';
import { lockNumber } from '../lock-number.js';
import { type Queryable, rowsOf } from '../queryable.js';
import { tablesIn } from '../table-name.js';
import { withTheirSteps } from './shared-statements.js';

export interface PurgedBatch {
  deleted: number;
  /** Whether another purge is at work. */
  locked: boolean;
  /** The latest expiry of those that were due, to the microsecond, as PostgreSQL reads it in any DateStyle; or null. */
  reached: string | null;
}

/** Steps are few: an operation has them only until it ends. */
const LEFT_STEPS_SAMPLE = 100;

/** What the purge runs: of keys that have expired, and of what was left behind. */
export class ExpiredKeys {
  private readonly keys: string;
  private readonly steps: string;

  /** @param isDistributed whether the tables are those of Citus: see {@link KeyTables.isDistributed} */
  constructor(
    private readonly db: Queryable,
    private readonly schema?: string,
    private readonly isDistributed = false,
  ) {
    ({ keys: this.keys, steps: this.steps } = tablesIn(schema));
  }

  /**
   * Deletes up to `batchSize` expired rows, oldest first, in one statement of its own. A second purger would only
   * wait for the first one's rows: it finds the lock taken and answers `locked`.
   *
   * A row's place names it only within one table: others of the same place, in other partitions or children, may be
   * locked, and are not part of the batch. Rows of distributed tables have no place, and cannot be locked: they go by
   * their primary key, which on a plain table takes 3.5 times as long. Steps go with their key, so that nobody has to
   * look for those that were left behind among all that live.
   *
   * @param after what the batch before it answered: otherwise each would read again the index entries of all that were
   * deleted before it, which stay until a vacuum
   */
  async purgeBatch(batchSize: number, after?: PurgedBatch): Promise<PurgedBatch> {
    const rows = await rowsOf<PurgedBatch>(
      this.db,
      // materialized: the lock is tried once and before anything is read, whatever the planner thinks of it
      `with turn as materialized (select pg_try_advisory_xact_lock($1::int8) as mine),
            due as materialized (
              select ${this.isDistributed ? 'scope, key' : 'tableoid as part, ctid as place'}, expires_at from ${this.keys}
              where expires_at <= clock_timestamp() and (select mine from turn)
                and expires_at >= coalesce($3::timestamptz, '-infinity')
              order by expires_at
              limit $2::int4
              ${this.isDistributed ? '' : 'for update skip locked'}),
            purged as (${this.isDistributed ? this.deleteByKey : this.deleteByPlace}),
            ${withTheirSteps('purged', this.steps)}
       select not (select mine from turn) as locked, (select count(*)::int4 from purged) as deleted,
              (select to_char(max(expires_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.USZ') from due) as reached`,
      [lockNumber([this.schema ?? '', 'purge']), batchSize, after?.reached],
    );
    return rows[0]!;
  }

  private get deleteByPlace(): string {
    return `
              delete from ${this.keys}
              where ctid = any (array(select place from due)) and (tableoid, ctid) in (select part, place from due)
                and expires_at <= clock_timestamp()
              returning execution_id`;
  }

  private get deleteByKey(): string {
    return `
              delete from ${this.keys} k using due
              where k.scope = due.scope and k.key = due.key and k.expires_at <= statement_timestamp()
              returning k.execution_id`;
  }

  async count(): Promise<number> {
    const rows = await rowsOf<{ count: string }>(
      this.db,
      `select count(*)::int8 as count from ${this.keys} where expires_at <= clock_timestamp()`,
    );
    return Number(rows[0]!.count);
  }

  /**
   * Deletes steps whose operation is over although they did not go with their key: instances of a version before leave
   * them, and whoever deletes keys by hand. Looks at a sample of all steps, so that it costs the same however many live.
   */
  async purgeLeftSteps(): Promise<void> {
    const sample = (from: string): string => `(
      select execution_id, scope, key from ${this.steps} where execution_id ${from} $1::uuid
      order by execution_id limit ${LEFT_STEPS_SAMPLE})`;
    await rowsOf(
      this.db,
      `with seen as materialized (${sample('>=')} union ${sample('<')}),
       alive as materialized (
         select k.execution_id from ${this.keys} k
         join seen on k.scope = seen.scope and k.key = seen.key and k.execution_id = seen.execution_id),
       gone as (
         delete from ${this.steps} where execution_id = any (
           array(select execution_id from seen where execution_id not in (select execution_id from alive))))
       select 1`,
      [randomUUID()],
    );
  }
}
