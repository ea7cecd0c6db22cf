/** What identifies one operation. */
export interface KeyIdentity {
  scope: string;
  key: string;
}

interface StoredRequest extends KeyIdentity {
  method: string;
  path: string;
  /** When the response was recorded; in lease mode, when the first attempt began. */
  createdAt: Date;
  /** From then on the key counts as absent; `undefined` for one that waits for an operator. */
  expiresAt: Date | undefined;
  /** How many times the handler was started; `undefined` in transaction mode. */
  attempt: number | undefined;
}

/** A key whose response is recorded. */
export interface CompletedKey extends StoredRequest {
  state: 'completed';
  status: number;
  /** Bytes of the response's body; for one that was too large to keep: those counted before it was given up. */
  bodyBytes: number;
  bodyKept: boolean;
}

/** A key in lease mode whose operation has no response yet. */
export interface UnfinishedKey extends StoredRequest {
  /**
   * `running` under a live lease; `interrupted` when the lease has expired without an end, or the effect of a step is
   * unknown; `released` when the handler has failed and a retry may go on; `steps-changed` when a retry may as well, but
   * the last one met code that comes by other steps.
   */
  state: UnfinishedState;
  /** What the last attempt has found out that an operator should know. */
  attention: Attention | undefined;
  leaseExpiresAt: Date | undefined;
  /** Names of the steps that have finished, in their order. */
  steps: string[];
  status?: undefined;
  bodyBytes?: undefined;
  bodyKept?: undefined;
}

export type UnfinishedState = 'running' | 'interrupted' | 'released' | 'steps-changed';

export interface Attention {
  /**
   * `effect-unknown`: a step has had its effect, or still may, and its result is not known. No retry goes on before
   * `IdempotencyService.resolve()` or `.release()`. `steps-changed`: an attempt was refused, because its code has passed by
   * a step that an earlier one has finished, or has ended with a failure that the earlier one went on from. `steps-reordered`: it came by all of them, in another order.
   */
  reason: 'effect-unknown' | 'steps-changed' | 'steps-reordered';
  /** The steps that this is about. */
  steps: string[];
  /** For people. */
  detail: string;
}

/** A key as operators see it. */
export type StoredKey = CompletedKey | UnfinishedKey;
