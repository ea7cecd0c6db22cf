import { randomUUID } from 'node:crypto';
import type { Connections } from '../../postgres/connections.js';
import type { Holder, NewStep } from '../../postgres/statements/lease-statements.js';
import type { Attention } from '../../protocol/stored-key.js';
import type { StepHold } from './step-hold.js';

/** For a request without a key: its steps run, and nobody will ever ask what they came to. */
export class KeylessHold implements StepHold {
  readonly hasKey = false;
  readonly holder: Holder = { scope: '', key: '', claimId: randomUUID() };
  readonly leaseMs = 0;
  readonly ttlMs = 0;

  constructor(readonly connections: Connections) {}

  ensure(): Promise<void> {
    return Promise.resolve();
  }

  lose(): Error {
    return new Error('a request without a key has no lease to lose');
  }

  whileStepRuns<T>(work: () => Promise<T>): Promise<T> {
    return work();
  }

  whileLocked<T>(work: () => Promise<T>): Promise<T> {
    return work();
  }

  renewed(): void {
    // there is nothing to renew
  }

  sealed(step: NewStep): NewStep {
    return step;
  }

  /** @throws where it would be for an operator: none would find it */
  remember(_step: unknown, attention?: Attention): Promise<void> {
    return attention === undefined ? Promise.resolve() : Promise.reject(new Error('the request has no key'));
  }
}
