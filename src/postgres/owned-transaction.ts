import type { PoolClient } from 'pg';
import { type Deferred, deferred } from '../util/deferred.js';
import { failpoint } from '../util/failpoint.js';
import { CANCEL_WAIT_MS, POOL_WAIT_MS } from '../protocol/constants.js';
import { TransactionRolledBackError } from '../protocol/exceptions.js';
import { within } from '../util/timing.js';
import { cancelUntil } from './cancel-request.js';
import type { DatabaseConnection } from './database-connection.js';
import { isDefiniteFailure } from './sqlstate.js';

/** `unknown`: COMMIT was sent and its answer has been lost. */
export type TransactionState = 'open' | 'committed' | 'rolled back' | 'unknown';

/** `refused`: nothing was kept, for certain. `unknown`: COMMIT was sent, and only a look at the table can tell. */
export type CommitAnswer = { kind: 'committed' } | { kind: 'refused' | 'unknown'; error: unknown };

type Send = (client: PoolClient) => Promise<void>;
type Turn = <T>(work: () => Promise<T>) => Promise<T>;

/**
 * A transaction that was begun on a connection of its own, until the connection is given back or destroyed: by exactly
 * one of commit, rollBack and abort. Who comes second changes nothing.
 */
export class OwnedTransaction {
  private current: TransactionState = 'open';
  private abortCause: Error | undefined;
  private readonly closed = deferred();
  private committing: Deferred<CommitAnswer> | undefined;
  private commitSent = false;
  private commitLimit: NodeJS.Timeout | undefined;
  private rollingBack: Promise<void> | undefined;

  /** @param store has the statement that rolls back */
  constructor(
    readonly connection: DatabaseConnection,
    private readonly store: { rollback: Send },
  ) {}

  get state(): TransactionState {
    return this.current;
  }

  get abortedBecause(): Error | undefined {
    return this.abortCause;
  }

  /** Whether what is sent now would come behind its end. */
  get isEnding(): boolean {
    return this.commitSent || this.current !== 'open';
  }

  /** Resolves when it is not open any more; a ROLLBACK may still be under way then. */
  get over(): Promise<void> {
    return this.closed.promise;
  }

  /**
   * Commits, and gives the connection back. Called once.
   *
   * @param send does so in one batch, behind whatever else has to commit with it; rejects unless COMMIT was acknowledged
   * @param inTurn calls it once nobody else uses the connection; an abort does not wait for that
   */
  commit(send: Send, inTurn: Turn = (work) => work()): Promise<CommitAnswer> {
    const answer = (this.committing = deferred());
    inTurn(() => this.sendCommit(send)).then(answer.resolve, (error: unknown) =>
      answer.resolve({ kind: 'refused', error }),
    );
    return answer.promise;
  }

  /**
   * Rolls back and gives the connection back, after a bounded time at the latest; a COMMIT that was sent is waited for
   * instead.
   *
   * @param untilQuiet waits for what the connection is busy with
   */
  rollBack(untilQuiet?: () => Promise<void>): Promise<void> {
    if (this.rollingBack !== undefined || this.current !== 'open') {
      return this.rollingBack ?? Promise.resolve();
    }
    return (this.rollingBack = this.commitSent ? this.untilCommitted() : this.sendRollback(untilQuiet));
  }

  /**
   * Ends it, whatever the connection is busy with: that is cancelled, and rolled back; but a COMMIT that was sent is left
   * alone, since one that waits for a replica would be acknowledged without it. The connection keeps its place in the
   * pool until the server has answered, or for a bounded time. False where it had ended already.
   */
  abort(cause: Error): boolean {
    if (this.current !== 'open') {
      return false;
    }
    this.abortCause = cause;
    if (this.commitSent) {
      this.end('unknown');
      this.commitLimit = setTimeout(() => this.connection.destroy(cause), POOL_WAIT_MS);
      this.committing?.resolve({ kind: 'unknown', error: cause });
    } else {
      this.end('rolled back');
      this.rollingBack = this.undo('busy');
      this.committing?.resolve({ kind: 'refused', error: cause });
    }
    return true;
  }

  private async sendCommit(send: Send): Promise<CommitAnswer> {
    if (this.current !== 'open') {
      return { kind: 'refused', error: new TransactionRolledBackError() }; // it ended before it was its turn
    }
    try {
      this.connection.assertFree();
    } catch (error) {
      this.end('rolled back');
      this.connection.destroy(error);
      return { kind: 'refused', error };
    }
    this.commitSent = true;
    try {
      await send(this.connection.client);
    } catch (error) {
      const isRefused = saysThatNothingIsKept(error);
      this.end(isRefused ? 'rolled back' : 'unknown');
      this.connection.destroy(error);
      return { kind: isRefused ? 'refused' : 'unknown', error };
    } finally {
      clearTimeout(this.commitLimit);
    }
    this.end('committed');
    this.connection.release();
    return { kind: 'committed' };
  }

  private async sendRollback(untilQuiet: (() => Promise<void>) | undefined): Promise<void> {
    this.end('rolled back');
    const isQuiet =
      untilQuiet === undefined ||
      (await within(
        POOL_WAIT_MS,
        untilQuiet().then(() => true),
      ));
    await this.undo(isQuiet ? 'quiet' : 'busy');
  }

  private async undo(state: 'quiet' | 'busy'): Promise<void> {
    const { connection } = this;
    // A network that swallows the ROLLBACK must not keep the key in flight, nor the connection out of the pool.
    const limitMs = state === 'busy' ? CANCEL_WAIT_MS : POOL_WAIT_MS;
    const limit = setTimeout(() => connection.destroy(new Error('the rollback was not answered')), limitMs);
    try {
      if (state === 'busy') {
        // Not behind the statement that is cancelled: pg warns of a query while another runs, and pg 9 refuses it.
        await cancelUntil(within(limitMs, connection.untilAnswered()), connection);
      }
      connection.assertFree();
      failpoint('rollback: sending');
      await this.store.rollback(connection.client);
      failpoint('rollback: done');
      connection.release();
    } catch (error) {
      connection.destroy(error);
    } finally {
      clearTimeout(limit);
    }
  }

  private async untilCommitted(): Promise<void> {
    const limit = setTimeout(() => this.abort(new Error('the COMMIT was not answered')), POOL_WAIT_MS);
    await this.committing?.promise;
    clearTimeout(limit);
  }

  private end(state: TransactionState): void {
    if (this.current === 'open') {
      this.current = state;
      this.closed.resolve();
    }
  }
}

/** The stores' own errors carry that of the server as their cause. */
function saysThatNothingIsKept(error: unknown): boolean {
  return isDefiniteFailure(error) || (error instanceof Error && isDefiniteFailure(error.cause));
}
