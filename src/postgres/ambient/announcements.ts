import { runLogged } from '../../util/after-commit.js';
import { within } from '../../util/timing.js';
import type { Scope } from './transaction-scope.js';

/** How long a transaction's end waits for subscribers that are told of it, and the response with it. */
const SUBSCRIBER_PATIENCE_MS = 5_000;

/** What TypeORM's subscribers are told of a transaction, as TypeORM documents it. */
export class Announcements {
  /** They were told of its start, and are to be told of its end. */
  private isAnnounced = false;

  /** @param outside runs what they do then outside of the transaction */
  constructor(
    private readonly root: Scope,
    private readonly outside: <T>(work: () => T) => T,
  ) {}

  /** BEGIN was sent with the claim: whether there would be a transaction to tell of was not known before. */
  async started(): Promise<void> {
    this.isAnnounced = this.root.announces;
    if (this.isAnnounced) {
      await this.root.announce('BeforeTransactionStart');
      await this.root.announce('AfterTransactionStart');
    }
  }

  /** Rejects where one of them does. */
  async committing(): Promise<void> {
    await (this.isAnnounced && this.root.announce('BeforeTransactionCommit'));
  }

  /** Tells subscribers that it has committed, and with it what was nested in it. Their errors are logged. */
  async committed(): Promise<void> {
    if (this.isAnnounced) {
      this.isAnnounced = false;
      const { root } = this;
      const told = this.outside(async () => {
        for (const { lead } of root.committing) {
          await runLogged(() => lead.announce('AfterTransactionCommit'));
        }
      });
      await within(SUBSCRIBER_PATIENCE_MS, told);
    }
  }

  /** Tells subscribers that it is undone, before and after `undo` does so. Their errors are logged. */
  async rolledBack(undo: () => Promise<void>): Promise<void> {
    if (!this.isAnnounced) {
      return undo();
    }
    this.isAnnounced = false;
    const { root } = this;
    await within(
      SUBSCRIBER_PATIENCE_MS,
      runLogged(() => root.announce('BeforeTransactionRollback')),
    );
    await undo();
    const told = this.outside(() => runLogged(() => root.announceRollback()));
    await within(SUBSCRIBER_PATIENCE_MS, told);
  }
}
