import { deferred } from '../../util/deferred.js';
import { failpoint } from '../../util/failpoint.js';
import { POOL_WAIT_MS, STORE_PATIENCE_MS } from '../../protocol/constants.js';
import type { Connections } from '../../postgres/connections.js';
import { IdempotencyLeaseLostException, IdempotencyStoreUnavailableException } from '../../protocol/exceptions.js';
import { Lane } from '../../util/lane.js';
import { FencedOffError } from '../../postgres/statements/store-errors.js';
import type { Holder, NewStep } from '../../postgres/statements/lease-statements.js';
import type { LeaseStore } from '../../postgres/statements/lease-store.js';
import type { Encryption } from '../../protocol/encryption.js';
import type { Attention } from '../../protocol/stored-key.js';
import { sealStep } from './sealed-steps.js';
import type { StepHold } from './step-hold.js';
import type { LeaseLine } from './lease-line.js';
import { elapsedMs, type Moment, now } from './moment.js';

/** A renewal that fails has two more chances before the lease runs out. */
const RENEWALS_A_LEASE = 3;

/** The shortest time that an answer to a renewal is waited for, however short the lease. */
const SHORTEST_ANSWER_MS = 500;

/**
 * The lease of one attempt, renewed for as long as it is held: while the handler runs, and while a step runs, whatever has
 * become of the request.
 *
 * It is long because renewals and steps share one row, and each has to know what the other is at.
 */
export class LeaseHold implements StepHold {
  readonly hasKey = true;
  private readonly controller = new AbortController();
  /** Counted from before it was asked for, so that the lease never ends earlier by the database's clock. */
  private heldSince: Moment;
  private stopped = false;
  private stepsRunning = 0;
  private readonly locking = new Lane();
  private unlocked = deferred();
  private isLocked = false;
  private cancelledBecause: Error | undefined;
  private timer: NodeJS.Timeout | undefined;
  private renewing: Promise<unknown> = Promise.resolve();

  /** @param claimedAt before the claim was sent */
  constructor(
    readonly holder: Holder,
    private readonly options: { leaseMs: number; ttlMs: number },
    private readonly store: LeaseStore,
    readonly line: LeaseLine,
    private readonly encryption: Encryption,
    claimedAt: Moment,
  ) {
    this.heldSince = claimedAt;
    this.schedule();
  }

  get connections(): Connections {
    return this.line.connections;
  }

  /** Aborted when the lease is lost, when it could not be renewed in time, or when the request is given up. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  get leaseMs(): number {
    return this.options.leaseMs;
  }

  get ttlMs(): number {
    return this.options.ttlMs;
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
    while (this.mayBeOver && this.isLocked) {
      await this.unlocked.promise; // nobody takes a row that is locked, and its COMMIT renews the lease
    }
    if (this.mayBeOver && !(await this.renew().catch(cannotRenew))) {
      throw this.lose();
    }
  }

  /** Another attempt has the lease. */
  lose(): IdempotencyLeaseLostException {
    const error = new IdempotencyLeaseLostException();
    this.stopped = true;
    this.cancel(error);
    return error;
  }

  /** Tells the handler to stop: further steps are refused, and without one that runs the lease is left to expire. */
  cancel(reason: Error): void {
    this.cancelledBecause ??= reason;
    this.controller.abort(reason);
    if (!this.isWanted) {
      clearTimeout(this.timer);
    }
  }

  /** Renews no more; a renewal under way is waited for, lest it prolong a lease that is about to be given back. */
  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.timer);
    await this.renewing;
  }

  sealed(step: NewStep): NewStep {
    return sealStep(this.encryption, step);
  }

  async remember(step: NewStep, attention?: Attention): Promise<void> {
    const sealed = this.sealed(step);
    try {
      await this.line.insist((client) => this.store.addStep(client, sealed, attention), STORE_PATIENCE_MS);
    } catch (error) {
      if (error instanceof FencedOffError) {
        throw this.lose();
      }
      throw new IdempotencyStoreUnavailableException('The result of a step could not be stored.', { cause: error });
    }
  }

  /** Keeps the lease for as long as an effect may be under way. */
  async whileStepRuns<T>(work: () => Promise<T>): Promise<T> {
    this.stepsRunning++;
    try {
      return await work();
    } finally {
      this.stepsRunning--;
    }
  }

  /**
   * Leaves the key's row alone while `work` holds a lock on it. One after another: what renews the lease at its end could
   * not, beside another that holds the row.
   */
  whileLocked<T>(work: () => Promise<T>): Promise<T> {
    return this.locking.run(async () => {
      clearTimeout(this.timer);
      this.isLocked = true;
      await this.renewing;
      try {
        return await work();
      } finally {
        this.isLocked = false;
        this.unlocked.resolve();
        this.unlocked = deferred();
        this.schedule();
      }
    });
  }

  /** @param askedAt before the statement was sent that has renewed the lease */
  renewed(askedAt: Moment): void {
    this.heldSince = askedAt;
  }

  private get mayBeOver(): boolean {
    return elapsedMs(this.heldSince) >= this.options.leaseMs;
  }

  private get isWanted(): boolean {
    const isAtWork = this.cancelledBecause === undefined || this.stepsRunning > 0;
    return isAtWork && !this.stopped && !this.isLocked;
  }

  private schedule(afterMs = this.options.leaseMs / RENEWALS_A_LEASE): void {
    clearTimeout(this.timer);
    if (this.isWanted) {
      this.timer = setTimeout(() => {
        this.renewing = this.renewInTime();
      }, afterMs);
      this.timer.unref();
    }
  }

  private async renewInTime(): Promise<void> {
    if (!this.isWanted) {
      return;
    }
    let pauseMs: number | undefined;
    try {
      if (!(await this.renew()) && !this.stopped) {
        this.lose();
      }
    } catch {
      pauseMs = this.lockTimeoutMs; // the row was locked, or the database away: again soon
      if (this.mayBeOver) {
        this.controller.abort(new IdempotencyLeaseLostException()); // others may have it by now
      }
    }
    this.schedule(pauseMs);
  }

  /** Other leases wait behind one whose row is locked, but not for long. */
  private get lockTimeoutMs(): number {
    return Math.min(Math.max(Math.round(this.options.leaseMs / 10), 10), 1_000);
  }

  /** False when another attempt has it. */
  private async renew(): Promise<boolean> {
    const { leaseMs, ttlMs } = this.options;
    const limitMs = Math.min(Math.max(leaseMs / RENEWALS_A_LEASE, SHORTEST_ANSWER_MS), POOL_WAIT_MS);
    const held = await this.line.ask(async (client) => {
      const askedAt = now(); // it may have waited for its turn
      failpoint('lease: renewing');
      const isHeld = await this.store.renew(client, this.holder, leaseMs, ttlMs, this.lockTimeoutMs);
      if (isHeld) {
        this.renewed(askedAt);
      }
      return isHeld;
    }, limitMs);
    return held;
  }
}

function cannotRenew(cause: unknown): never {
  throw cause instanceof IdempotencyStoreUnavailableException
    ? cause
    : new IdempotencyStoreUnavailableException('The lease could not be renewed.', { cause });
}
