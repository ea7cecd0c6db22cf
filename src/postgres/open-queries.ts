import type { PoolClient } from 'pg';
import { deferred } from '../util/deferred.js';
import { QUIET_MS } from '../protocol/constants.js';
import { IdempotencyTransactionFailedException } from '../protocol/exceptions.js';
import { within } from '../util/timing.js';

/** What of pg's Client is read beyond its public type; `activeQuery` is that of releases before 8.17. */
type BusyClient = PoolClient & {
  readyForQuery: boolean;
  _activeQuery?: object | null;
  activeQuery?: object | null;
  connection: { stream: { destroyed: boolean; bytesRead?: number; bytesWritten?: number } };
};
const ACTIVE_QUERY = '_activeQuery';

/** What writes to the wire by itself: pg-cursor, pg-query-stream, pg-copy-streams. */
interface Submittable {
  submit(connection: unknown): unknown;
  handleDataRow?: unknown;
  on?(event: string, listener: () => void): unknown;
  listenerCount?(event: string): number;
  destroyed?: boolean;
  destroy?(): unknown;
  resume?(): unknown;
  close?(callback: () => void): unknown;
  /** Of a stream that reads by one. */
  cursor?: Pick<Submittable, 'close'>;
}

/** A cursor that is read from moves some bytes by then; one that nobody reads from never does. */
const UNREAD_MS = 100;
/** Between two looks at what runs. */
const LOOK_MS = 10;
/** What has one of these is consumed: `for await`, `pipe()`, `pipeline()`. */
const CONSUMERS = ['data', 'readable', 'unpipe'] as const;

/**
 * What a handler has handed to pg's own client. A cursor that it leaves half-read, or a COPY that it does not end, keeps
 * the connection: nothing that comes after it is sent, no ROLLBACK either.
 */
export class OpenQueries {
  private readonly given = new WeakSet<object>();
  private readonly closed = new WeakSet<object>();
  private deadEnd: Error | undefined;

  constructor(private readonly client: PoolClient) {}

  note(query: unknown): void {
    if (typeof (query as Partial<Submittable> | undefined)?.submit === 'function') {
      this.given.add(query as Submittable);
    }
  }

  /** Whether something runs that yet may end. */
  get areUnderWay(): boolean {
    return this.deadEnd === undefined && isBusy(this.client);
  }

  /** @throws IdempotencyTransactionFailedException where the connection can only be destroyed */
  assertNoDeadEnd(): void {
    if (this.deadEnd !== undefined) {
      throw this.deadEnd;
    }
  }

  /**
   * Resolves when the server has answered all that was sent to it, or is gone, or where that cannot be. What nobody reads
   * from is closed for it.
   *
   * @param isGivenUp at once, also what somebody reads from
   */
  async end(isGivenUp: boolean): Promise<void> {
    const client = this.client as BusyClient;
    let moved = '';
    let movedAt = performance.now();
    await untilAnswered(client, () => {
      if (this.deadEnd !== undefined) {
        return false;
      }
      const bytes = `${client.connection.stream.bytesRead} ${client.connection.stream.bytesWritten}`;
      if (bytes !== moved) {
        moved = bytes;
        movedAt = performance.now();
      }
      const running = (client[ACTIVE_QUERY] ??
        (ACTIVE_QUERY in client ? undefined : client.activeQuery)) as Submittable;
      if (Object(running) !== running || !this.given.has(running) || this.closed.has(running)) {
        return true;
      }
      const patienceMs = isConsumed(running) ? QUIET_MS : UNREAD_MS;
      if (isGivenUp || performance.now() - movedAt >= patienceMs) {
        this.closed.add(running);
        this.close(running);
      }
      return this.deadEnd === undefined;
    });
  }

  private close(query: Submittable): void {
    query.on?.('error', () => undefined); // that it was ended is no news for a consumer which is gone
    const isCopyToHere = query.handleDataRow === undefined && typeof query.resume === 'function';
    if (!isCopyToHere) {
      query.destroy?.();
      (query.cursor ?? query).close?.(() => undefined);
    } else if (query.destroyed) {
      // It has taken over the socket, and will not read from it any more.
      this.deadEnd = new IdempotencyTransactionFailedException(
        'The handler has left a COPY to the application before its end: nothing more can be read from its connection. Read it to the end.',
      );
    } else {
      query.resume?.();
    }
  }
}

function isConsumed(query: Submittable): boolean {
  return !query.destroyed && CONSUMERS.some((event) => (query.listenerCount?.(event) ?? 0) > 0);
}

/** Whether something was sent that the server has not answered, and yet may. */
export function isBusy(client: PoolClient): boolean {
  const { readyForQuery, connection } = client as BusyClient;
  return !readyForQuery && !connection.stream.destroyed;
}

/**
 * Resolves when the server has answered all that was sent to it, or is gone.
 *
 * @param look is called again and again until then, or until it says false
 */
export async function untilAnswered(client: PoolClient, look?: () => boolean): Promise<void> {
  if (!isBusy(client)) {
    return;
  }
  const answer = deferred();
  client.on('drain', answer.resolve).on('end', answer.resolve);
  try {
    if (look === undefined) {
      return await answer.promise;
    }
    const answered = answer.promise.then(() => true);
    for (let isOver = false; !isOver && look();) {
      isOver = (await within(LOOK_MS, answered)) ?? false;
    }
  } finally {
    client.off('drain', answer.resolve).off('end', answer.resolve);
  }
}
