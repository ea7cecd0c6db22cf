import type { Attention, KeyIdentity, StoredKey, UnfinishedState } from '../../protocol/stored-key.js';
import { type Queryable, rowsOf } from '../queryable.js';
import { tablesIn } from '../table-name.js';
import { epochMs, UNFINISHED_STATE, withTheirSteps } from './shared-statements.js';

/** By one statement, so that no lock of it lasts. */
const FORGOTTEN_AT_A_TIME = 1_000;

/** Keys as the application's own code may see them, and forget them: never by way of a request's transaction. */
export class StoredKeys {
  private readonly keys: string;
  private readonly steps: string;

  constructor(
    private readonly db: Queryable,
    schema?: string,
  ) {
    ({ keys: this.keys, steps: this.steps } = tablesIn(schema));
  }

  async find({ scope, key }: KeyIdentity): Promise<StoredKey | undefined> {
    const rows = await rowsOf<OperatorRow>(
      this.db,
      `select k.scope, k.key, k.method, k.path, k.attempt, k.response_status as status, k.response_bytes as bytes,
              k.response_body is not null as body_kept, ${UNFINISHED_STATE} as state,
              ${epochMs('k.created_at')} as created_at_ms, ${epochMs('k.expires_at')} as expires_at_ms,
              ${epochMs('k.lease_expires_at')} as lease_expires_at_ms, k.attention, k.execution_id
       from ${this.keys} k
       where k.scope = $1::text and k.key = $2::text and k.expires_at > clock_timestamp()`,
      [scope, key],
    );
    const [row] = rows;
    return row === undefined ? undefined : storedKeyOf(row, row.state === null ? [] : await this.stepsOf(row));
  }

  /** By a query of its own: two distributed tables cannot be joined by this. */
  private async stepsOf({ execution_id: executionId }: OperatorRow): Promise<string[]> {
    const rows = await rowsOf<{ name: string }>(
      this.db,
      `select name from ${this.steps} where execution_id = $1::uuid and outcome -> 'keysUsedUp' is null
       order by position, created_at`,
      [executionId],
    );
    return rows.map(({ name }) => name);
  }

  /** Deletes the key's record, expired or not, with its steps, and tells whether there was one. */
  async forget({ scope, key }: KeyIdentity): Promise<boolean> {
    const rows = await rowsOf<{ count: number }>(
      this.db,
      `with forgotten as (
              delete from ${this.keys} where scope = $1::text and key = $2::text returning execution_id),
            ${withTheirSteps('forgotten', this.steps)}
       select count(*)::int4 as count from forgotten`,
      [scope, key],
    );
    return rows[0]!.count > 0;
  }

  /** Deletes all keys of a scope, whatever their state, with their steps, and tells how many. */
  async forgetScope(scope: string): Promise<number> {
    let total = 0;
    for (;;) {
      const deleted = await this.forgetSome(scope, FORGOTTEN_AT_A_TIME);
      total += deleted;
      if (deleted < FORGOTTEN_AT_A_TIME) {
        return total;
      }
    }
  }

  private async forgetSome(scope: string, limit: number): Promise<number> {
    const rows = await rowsOf<{ count: number }>(
      this.db,
      `with forgotten as (
              delete from ${this.keys} where scope = $1::text and key = any (array(
                select key from ${this.keys} where scope = $1::text limit $2::int4))
              returning execution_id),
            ${withTheirSteps('forgotten', this.steps)}
       select count(*)::int4 as count from forgotten`,
      [scope, limit],
    );
    return rows[0]!.count;
  }
}

/** A row as TypeORM or pg give it: 64-bit numbers as text. */
interface OperatorRow extends KeyIdentity {
  method: string;
  path: string;
  attempt: number | null;
  status: number;
  bytes: string;
  body_kept: boolean;
  state: UnfinishedState | null;
  created_at_ms: string;
  expires_at_ms: string | null;
  lease_expires_at_ms: string | null;
  attention: Attention | null;
  execution_id: string | null;
}

function storedKeyOf(row: OperatorRow, steps: string[]): StoredKey {
  const { scope, key, method, path, attempt, state, attention } = row;
  const expires = row.expires_at_ms;
  const request = {
    scope,
    key,
    method,
    path,
    createdAt: new Date(Number(row.created_at_ms)),
    expiresAt: expires === null ? undefined : new Date(Number(expires)),
    attempt: attempt ?? undefined,
  };
  if (state === null) {
    return {
      ...request,
      state: 'completed',
      status: row.status,
      bodyBytes: Number(row.bytes),
      bodyKept: row.body_kept,
    };
  }
  const lease = row.lease_expires_at_ms;
  return {
    ...request,
    state,
    leaseExpiresAt: lease === null ? undefined : new Date(Number(lease)),
    steps,
    attention: attention ?? undefined,
  };
}
