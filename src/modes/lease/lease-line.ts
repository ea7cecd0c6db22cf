import type { PoolClient } from 'pg';
import type { Connections } from '../../postgres/connections.js';
import { POOL_WAIT_MS } from '../../protocol/constants.js';
import { Lane } from '../../util/lane.js';
import { LoneSession } from '../../postgres/lone-session.js';
import type { StatementPreparation } from '../../postgres/statement-preparation.js';

/**
 * A connection of lease mode's own, opened with the first lease and kept: what a handler holds, and what its steps have
 * come to, does not depend on the application leaving a connection of the pool to it.
 */
export class LeaseLine {
  private readonly lane = new Lane();
  private session: LoneSession | undefined;
  private isClosed = false;

  constructor(
    readonly connections: Connections,
    private readonly preparation: StatementPreparation,
  ) {}

  /** Opens it ahead of its use. */
  open(): void {
    if (this.session === undefined) {
      this.lane.run(() => this.connect()).catch(() => undefined); // whoever needs it tries again
    }
  }

  /** Closes it behind what is under way. */
  async close(): Promise<void> {
    this.isClosed = true;
    await this.lane.run(() => Promise.resolve(this.hangUp()));
  }

  /**
   * One question, in turn. Where this line cannot be had, by the pool.
   *
   * @param limitMs how long an answer may take; the connection is given up then
   */
  ask<T>(question: (client: PoolClient) => Promise<T>, limitMs = POOL_WAIT_MS): Promise<T> {
    return this.lane.run(async () => {
      const session = await this.connect().catch(() => undefined);
      return session === undefined ? this.connections.run(question) : this.askOn(session, question, limitMs);
    });
  }

  /** For what must not be lost: on the pool, or here where all of its connections are in use. Insists on an answer. */
  insist<T>(question: (client: PoolClient) => Promise<T>, patienceMs: number): Promise<T> {
    return this.connections.insist(question, patienceMs, (again) =>
      this.connections.areInUse ? this.ask(again) : this.connections.run(again),
    );
  }

  private async askOn<T>(
    session: LoneSession,
    question: (client: PoolClient) => Promise<T>,
    limitMs: number,
  ): Promise<T> {
    const limit = setTimeout(() => this.hangUp(), limitMs);
    try {
      return await question(session.client);
    } catch (error) {
      this.hangUp();
      if (this.preparation.shouldRunAgain(error)) {
        return await this.connections.run(question);
      }
      throw error;
    } finally {
      clearTimeout(limit);
    }
  }

  private async connect(): Promise<LoneSession | undefined> {
    if (this.session === undefined && !this.isClosed) {
      const { transactions } = this.connections;
      this.session = await transactions.onNobodysBehalf(() => LoneSession.open(transactions.dataSource, POOL_WAIT_MS));
    }
    return this.session;
  }

  private hangUp(): void {
    this.session?.destroy();
    this.session = undefined;
  }
}
