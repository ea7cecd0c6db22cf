import { randomUUID } from 'node:crypto';
import type { ClaimEnd } from '../claim.js';
import { cannotClaim, type IdempotentRequest, type Outcome, outcomeOf } from '../claim.service.js';
import type { Connections } from '../connections.js';
import { failpoint } from '../failpoint.js';
import { IdempotencyStoreUnavailableException } from '../idempotency.exceptions.js';
import type { LeaseResult, LeaseStore } from '../persistence/lease-store.js';
import { isDefiniteFailure } from '../persistence/sqlstate.js';
import { DurableSteps } from './durable-steps.js';
import { LeaseHold } from './lease-hold.js';
import { LeasedClaim } from './leased-claim.js';

/** Claims by lease: the key is taken by a committed row, which holds nothing but itself. */
export class LeaseService {
  constructor(
    private readonly store: LeaseStore,
    private readonly connections: Connections,
  ) {}

  /**
   * @param started is told of a claim, and answers what is to be told of its end
   * @throws IdempotencyStoreUnavailableException when the key cannot be claimed; the handler must not run then
   */
  async claim(request: IdempotentRequest, started: () => ClaimEnd): Promise<Outcome> {
    const { options, ...identified } = request;
    const { leaseMs, ttlMs, onInterrupted } = options;
    const claimed = { ...identified, claimId: randomUUID(), ttlMs };
    const claimedAt = performance.now();
    const result = await this.send({ ...claimed, leaseMs, resumes: onInterrupted === 'resume' });
    if (result.kind !== 'claimed') {
      return result.kind === 'in flight' ? result : outcomeOf(result, request);
    }
    failpoint('lease: claimed');
    const { scope, key, claimId } = claimed;
    const hold = new LeaseHold({ scope, key, claimId }, options, this.store, this.connections, claimedAt);
    const steps = new DurableSteps(result.steps, result.attempt, hold, this.store, this.connections, options);
    return {
      kind: 'claimed',
      claim: new LeasedClaim(
        claimed,
        result.attempt,
        hold,
        steps,
        onInterrupted,
        this.store,
        this.connections,
        started(),
      ),
    };
  }

  /** A second time when the first was lost on its way: the lease may be taken already, by this very request. */
  private async send(request: Parameters<LeaseStore['claim']>[1]): Promise<LeaseResult> {
    const ask = (): Promise<LeaseResult> => this.connections.run((client) => this.store.claim(client, request));
    return ask()
      .catch((error: unknown) => {
        if (error instanceof IdempotencyStoreUnavailableException || isDefiniteFailure(error)) {
          throw error;
        }
        return ask();
      })
      .catch(cannotClaim);
  }
}
