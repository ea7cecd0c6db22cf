import type { Connections } from '../connections.js';
import { failpoint } from '../failpoint.js';
import { IdempotencyLeaseLostException } from '../idempotency.exceptions.js';
import type { Holder, LeaseStore } from '../persistence/lease-store.js';

/** A renewal that fails has two more chances before the lease runs out. */
const RENEWALS_A_LEASE = 3;

/** The lease of one attempt, renewed for as long as it is held. */
export class LeaseHold {
  private readonly controller = new AbortController();
  /** By this process' own monotonic clock, and never later than by the database's: counted from before it was asked. */
  private heldUntil: number;
  private lost = false;
  private stopped = false;
  private timer: NodeJS.Timeout | undefined;
  private renewing: Promise<unknown> = Promise.resolve();

  /** @param claimedAt `performance.now()` before the claim was sent */
  constructor(
    readonly holder: Holder,
    private readonly options: { leaseMs: number; ttlMs: number },
    private readonly store: LeaseStore,
    private readonly connections: Connections,
    claimedAt: number,
  ) {
    this.heldUntil = claimedAt + options.leaseMs;
    this.schedule();
  }

  /** Aborted when the lease is lost, when it could not be renewed in time, or when the request is given up. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /**
   * Makes sure before an effect that the lease is still held: a process that was frozen for a while finds out here.
   *
   * @throws IdempotencyLeaseLostException when another attempt has taken over
   */
  async ensure(): Promise<void> {
    if (!this.lost && performance.now() >= this.heldUntil) {
      await this.renew();
    }
    if (this.lost) {
      throw new IdempotencyLeaseLostException();
    }
  }

  /** Another attempt has the lease. */
  lose(): IdempotencyLeaseLostException {
    const error = new IdempotencyLeaseLostException();
    this.lost = true;
    this.cancel(error);
    return error;
  }

  /** Tells the handler to stop. */
  cancel(reason: Error): void {
    clearTimeout(this.timer);
    this.controller.abort(reason);
  }

  /** Renews no more; a renewal under way is waited for, lest it prolong a lease that is about to be given back. */
  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    await this.renewing;
  }

  /** Leaves the key's row alone while `work` holds a lock on it. */
  async withoutRenewals<T>(work: () => Promise<T>): Promise<T> {
    clearTimeout(this.timer);
    await this.renewing;
    try {
      return await work();
    } finally {
      this.schedule();
    }
  }

  private schedule(): void {
    const { leaseMs } = this.options;
    clearTimeout(this.timer);
    if (this.stopped || this.lost) {
      return;
    }
    this.timer = setTimeout(() => {
      this.renewing = this.renew().then(
        () => this.schedule(),
        () => {
          if (performance.now() >= this.heldUntil) {
            this.controller.abort(new IdempotencyLeaseLostException()); // others may have it by now
          }
          this.schedule();
        },
      );
    }, leaseMs / RENEWALS_A_LEASE);
    this.timer.unref();
  }

  private async renew(): Promise<void> {
    const { leaseMs, ttlMs } = this.options;
    const askedAt = performance.now();
    failpoint('lease: renewing');
    const held = await this.connections.run((client) => this.store.renew(client, this.holder, leaseMs, ttlMs));
    if (held) {
      this.heldUntil = askedAt + leaseMs;
    } else if (!this.stopped) {
      this.lose();
    }
  }
}
