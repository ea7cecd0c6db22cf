import type { Claim } from '../modes/claim.js';
import type { IdempotencyContext } from '../protocol/context.js';
import { DurableStepError } from '../protocol/durable-step.error.js';
import { downstreamKey } from '../modes/lease/downstream-key.js';
import { type StepArguments, stepId, type StepWork, type TransactionWork } from '../protocol/step-call.js';
import type { StoredKeys } from '../postgres/statements/stored-keys.js';

/** Whose operation it is. */
interface Identified {
  /** Absent where the request has none. */
  readonly key: string | undefined;
  readonly scope: string;
  /** What keys for providers are made of where it has none. */
  readonly seed?: string;
}

/** A run of the handler, read when the context is asked: another run has another claim. */
export interface HandlersRun {
  readonly request: Identified;
  readonly attempt: number;
  readonly claim: Pick<Claim, 'createManager' | 'signal' | 'afterCommit' | 'tools'>;
}

/** What a handler may know and do. */
export function contextOf(run: HandlersRun, keys: StoredKeys): IdempotencyContext<string | undefined> {
  const { request } = run;
  const { key } = request;
  return {
    key,
    get scope() {
      return request.scope;
    },
    get attempt() {
      return run.attempt;
    },
    get manager() {
      return run.claim.createManager();
    },
    get signal() {
      return run.claim.signal;
    },
    afterCommit: (callback) => run.claim.afterCommit(callback),
    downstreamKey: (step, options) => {
      const usedUp = run.claim.tools?.keysUsedUp(stepId(step, options));
      return downstreamKey(request.scope, key ?? request.seed!, step, options, usedUp);
    },
    find: (other) => keys.find({ scope: request.scope, key: other }),
    forget: (other) => keys.forget({ scope: request.scope, key: other }),
    step: <T>(name: string, ...given: StepArguments<StepWork<T>>) =>
      run.claim.tools?.step(name, ...given) ?? refuseStep(name),
    transaction: <T>(name: string, ...given: StepArguments<TransactionWork<T>>) =>
      run.claim.tools?.transaction(name, ...given) ?? refuseStep(name),
  };
}

function refuseStep(name: string): Promise<never> {
  const error = `Step "${name}" cannot be remembered in transaction mode, where the handler runs as a whole or not at all. Set \`mode: 'lease'\` on the route.`;
  return Promise.reject(new DurableStepError(error));
}
