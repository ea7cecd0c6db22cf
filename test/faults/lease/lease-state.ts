import type { Client } from 'pg';
import { byKey, heldLocks, openTransactions } from '../committed-state.js';

export interface BookingRow {
  nonce: string;
  key: string;
  amount: number;
  xact: string;
}

/** What became of a key, in the order of its row's versions. */
export interface LeaseEvent {
  event:
    | 'claimed'
    | 'resumed'
    | 'taken over'
    | 'renewed'
    | 'back-dated'
    | 'recorded'
    | 'released'
    | 'resolved'
    | 'let go on'
    | 'withdrawn'
    | 'purged'
    | 'changed';
  key: string;
  executionId: string;
  attempt: number;
  status: number | null;
  bodySha: string | null;
  /** Whether the lease, and the key, were still good when the row was written over or deleted; null for a new row. */
  leaseLives: boolean | null;
  keyLives: boolean | null;
  session: string;
  xact: string;
  /** Microseconds: PostgreSQL's own order of commits. */
  committedAt: number;
}

/** A step that was remembered. */
export interface StepMemo {
  key: string;
  executionId: string;
  name: string;
  attempt: number;
  session: string;
  xact: string;
  committedAt: number;
}

const COMMITTED_AT = `(extract(epoch from pg_xact_commit_timestamp(xact::xid8::xid)) * 1000000)::float8 as "committedAt"`;

/** All that PostgreSQL kept of operations in lease mode, read once everything is quiet. */
export class LeaseState {
  private readonly bookings: Map<string, BookingRow[]>;
  private readonly events: Map<string, LeaseEvent[]>;
  private readonly memos: Map<string, StepMemo[]>;

  private constructor(
    bookings: BookingRow[],
    events: LeaseEvent[],
    memos: StepMemo[],
    /** Steps of operations that are over, or forgotten. */
    readonly leftSteps: { key: string; name: string }[],
    private readonly live: Set<string>,
    readonly balance: number,
    readonly leftovers: string[],
  ) {
    this.bookings = byKey(bookings);
    this.events = byKey(events);
    this.memos = byKey(memos);
  }

  static async read(client: Client): Promise<LeaseState> {
    const rows = async <T>(sql: string): Promise<T[]> => (await client.query(sql)).rows as T[];
    const [total] = await rows<{ balance: number }>(
      `select coalesce(sum(balance), 0)::int4 as balance from accounts where id like 'lease-%'`,
    );
    const live = await rows<{ key: string }>(
      'select key from idempotency_keys where attempt is not null and expires_at > clock_timestamp()',
    );
    return new LeaseState(
      await rows('select nonce, key, amount, xact from bookings'),
      await rows(`
        select event, key, execution_id as "executionId", attempt, status, body_sha as "bodySha",
          lease_lives as "leaseLives", key_lives as "keyLives", session, xact, ${COMMITTED_AT}
        from lease_journal order by id`),
      await rows(`
        select key, execution_id as "executionId", name, attempt, session, xact, ${COMMITTED_AT} from step_journal`),
      await rows(`
        select s.key, s.name from idempotency_steps s join idempotency_keys k using (execution_id)
        where k.response_status is not null`),
      new Set(live.map(({ key }) => key)),
      total!.balance,
      (await openTransactions(client)).concat(await heldLocks(client)),
    );
  }

  bookingsOf(key: string): BookingRow[] {
    return this.bookings.get(key) ?? [];
  }

  eventsOf(key: string): LeaseEvent[] {
    return this.events.get(key) ?? [];
  }

  memosOf(key: string): StepMemo[] {
    return this.memos.get(key) ?? [];
  }

  isLive(key: string): boolean {
    return this.live.has(key);
  }

  keys(): string[] {
    return [...new Set([...this.bookings.keys(), ...this.events.keys(), ...this.memos.keys(), ...this.live])];
  }
}
