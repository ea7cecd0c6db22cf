import type { Client } from 'pg';

export interface EffectRow {
  nonce: string;
  key: string;
  amount: number;
  xact: string;
}

export interface JournalRow {
  event: 'recorded' | 'back-dated' | 'purged';
  key: string;
  xact: string;
  status: number;
  bodySha: string | null;
  /** Milliseconds of the database's clock, to the microsecond. */
  createdAt: number;
  expiresAt: number;
  at: number;
}

/** All that PostgreSQL kept, read once everything is quiet. */
export class CommittedState {
  private readonly effects: Map<string, EffectRow[]>;
  private readonly journal: Map<string, JournalRow[]>;
  /** How many expired keys the purge has deleted. */
  readonly purges: number;

  constructor(
    effects: EffectRow[],
    journal: JournalRow[],
    private readonly postings: Map<string, string>,
    private readonly live: Set<string>,
    readonly balance: number,
    /** Sessions that hold a transaction or a lock though nobody works. */
    readonly leftovers: string[],
  ) {
    this.effects = byKey(effects);
    this.journal = byKey(journal);
    this.purges = journal.filter(({ event }) => event === 'purged').length;
  }

  static async read(client: Client): Promise<CommittedState> {
    const rows = async <T>(sql: string): Promise<T[]> => (await client.query(sql)).rows as T[];
    const postings = await rows<{ nonce: string; xact: string }>('select nonce, xact from postings');
    const live = await rows<{ key: string }>(
      'select key from idempotency_keys where attempt is null and expires_at > clock_timestamp()',
    );
    const [total] = await rows<{ balance: number }>(
      `select coalesce(sum(balance), 0)::int4 as balance from accounts where id like 'account-%'`,
    );
    return new CommittedState(
      await rows('select nonce, key, amount, xact from effects'),
      await rows(`
        select event, key, xact, status, body_sha as "bodySha",
          (extract(epoch from created_at) * 1000)::float8 as "createdAt",
          (extract(epoch from expires_at) * 1000)::float8 as "expiresAt",
          (extract(epoch from at) * 1000)::float8 as at
        from journal order by id`),
      new Map(postings.map(({ nonce, xact }) => [nonce, xact])),
      new Set(live.map(({ key }) => key)),
      total!.balance,
      (await openTransactions(client)).concat(await heldLocks(client)),
    );
  }

  effectsOf(key: string): EffectRow[] {
    return this.effects.get(key) ?? [];
  }

  journalOf(key: string): JournalRow[] {
    return this.journal.get(key) ?? [];
  }

  postingXact(nonce: string): string | undefined {
    return this.postings.get(nonce);
  }

  /** The key's record is there and has not expired. */
  isLive(key: string): boolean {
    return this.live.has(key);
  }

  keys(): string[] {
    return [...new Set([...this.effects.keys(), ...this.journal.keys(), ...this.live])];
  }
}

export function byKey<T extends { key: string }>(rows: T[]): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const row of rows) {
    const group = groups.get(row.key);
    if (group === undefined) {
      groups.set(row.key, [row]);
    } else {
      group.push(row);
    }
  }
  return groups;
}

/** What an instance asks as it boots, outside of a transaction of its own; the next one to take a place may do so now. */
const BOOT_QUESTIONS = '^(select n\\.nspname as schema|with recursive family|show server_encoding)';

/** Sessions of the application in a transaction: none, when no request is under way. One that is being set up is in one, too. */
export async function openTransactions(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ what: string }>(`
    select format('session %s: %s since %s: %s', pid, state, now() - xact_start, left(query, 80)) as what
    from pg_stat_activity
    where backend_type = 'client backend' and xact_start is not null and pid <> pg_backend_pid()
      and state is distinct from 'starting'
      and query !~* 'purged as'
      and not (state = 'active' and query ~* '${BOOT_QUESTIONS}')`);
  return rows.map(({ what }) => what);
}

export async function heldLocks(client: Client): Promise<string[]> {
  const { rows } = await client.query<{ what: string }>(`
    select format('session %s holds an advisory lock', pid) as what
    from pg_locks where locktype = 'advisory' and granted
      and not exists (select from pg_stat_activity a where a.pid = pg_locks.pid and a.query ~* 'purged as')`);
  return rows.map(({ what }) => what);
}
