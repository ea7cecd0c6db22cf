import type { Connections } from '../../postgres/connections.js';
import type { Holder, NewStep } from '../../postgres/statements/lease-statements.js';
import type { Attention } from '../../protocol/stored-key.js';
import type { Moment } from './moment.js';

/** What steps need of the right by which their handler runs: a lease, or nothing for a request without a key. */
export interface StepHold {
  readonly holder: Holder;
  /** Whether there is a key whose next attempt gets what the steps have come to. */
  readonly hasKey: boolean;
  readonly connections: Connections;
  readonly leaseMs: number;
  readonly ttlMs: number;

  /** Makes sure before an effect that it is still held. @throws IdempotencyException when it is not */
  ensure(): Promise<void>;

  /** Another attempt has it. */
  lose(): Error;

  /** Keeps it for as long as an effect may be under way. */
  whileStepRuns<T>(work: () => Promise<T>): Promise<T>;

  /** Leaves the key's row alone while `work` holds a lock on it. */
  whileLocked<T>(work: () => Promise<T>): Promise<T>;

  /** @param askedAt before the statement was sent that has renewed it */
  renewed(askedAt: Moment): void;

  /** As it is to be stored. */
  sealed(step: NewStep): NewStep;

  /**
   * Stores what a step has come to, for the next attempt.
   *
   * @param attention what an operator has to know of it, beside
   * @throws IdempotencyLeaseLostException, IdempotencyStoreUnavailableException
   */
  remember(step: NewStep, attention?: Attention): Promise<void>;
}
