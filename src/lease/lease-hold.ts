import type { Connections } from '../connections.js';
import { failpoint } from '../failpoint.js';
import { IdempotencyLeaseLostException, IdempotencyStoreUnavailableException } from '../idempotency.exceptions.js';
import type { Holder, LeaseStore } from '../persistence/lease-store.js';

/** A renewal that fails has two more chances before the lease runs out. */
const RENEWALS_A_LEASE = 3;

/** The lease of one attempt, renewed for as long as it is held. */
export class LeaseHold {
  private readonly controller = new AbortController();
  /** By this process' own monotonic clock, and never later than by the database's: counted from before it was asked. */
  private heldUntil: number;
  private stopped = false;
  private locks = 0;
  private cancelledBecause: Error | undefined;
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
   * @throws IdempotencyLeaseLostException when another attempt has taken over, or why the request was given up
   * @throws IdempotencyStoreUnavailableException when it cannot be told
   */
  async ensure(): Promise<void> {
    if (this.cancelledBecause !== undefined) {
      throw this.cancelledBecause;
    }
    if (performance.now() >= this.heldUntil && !(await this.renew().catch(cannotRenew))) {
      throw this.lose();
    }
  }

  /** Another attempt has the lease. */
  lose(): IdempotencyLeaseLostException {
    const error = new IdempotencyLeaseLostException();
    this.cancel(error);
    return error;
  }

  /** Tells the handler to stop: its lease is left to expire, and its steps are refused. */
  cancel(reason: Error): void {
    this.stopped = true;
    this.cancelledBecause ??= reason;
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
    this.locks++;
    await this.renewing;
    try {
      return await work();
    } finally {
      this.locks--;
      this.schedule();
    }
  }

  private schedule(): void {
    const { leaseMs } = this.options;
    clearTimeout(this.timer);
    if (this.stopped || this.locks > 0) {
      return;
    }
    this.timer = setTimeout(() => {
      this.renewing = this.renewInTime();
    }, leaseMs / RENEWALS_A_LEASE);
    this.timer.unref();
  }

  private async renewInTime(): Promise<void> {
    try {
      if (!(await this.renew()) && !this.stopped) {
        this.lose();
      }
    } catch {
      if (performance.now() >= this.heldUntil) {
        this.controller.abort(new IdempotencyLeaseLostException()); // others may have it by now
      }
    }
    this.schedule();
  }

  /** False when another attempt has it. */
  private async renew(): Promise<boolean> {
    const { leaseMs, ttlMs } = this.options;
    const askedAt = performance.now();
    failpoint('lease: renewing');
    const held = await this.connections.run((client) => this.store.renew(client, this.holder, leaseMs, ttlMs));
    if (held) {
      this.heldUntil = askedAt + leaseMs;
    }
    return held;
  }
}

function cannotRenew(cause: unknown): never {
  throw cause instanceof IdempotencyStoreUnavailableException
    ? cause
    : new IdempotencyStoreUnavailableException('The lease could not be renewed.', { cause });
}
