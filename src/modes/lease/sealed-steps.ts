import type { FinishedStep, StepOutcome } from '../../protocol/step.js';
import type { NewStep } from '../../postgres/statements/lease-statements.js';
import type { Encryption } from '../../protocol/encryption.js';
import type { KeyIdentity } from '../../protocol/stored-key.js';

/** What is stored of a step, sealed but for what statements go by. */
export function sealStep(encryption: Encryption, step: NewStep): NewStep {
  const sealed = encryption.sealText(step.outcome, identityOf(step, step.name));
  if (sealed === undefined) {
    return step;
  }
  const { keysUsedUp, lost } = JSON.parse(step.outcome) as StepOutcome;
  return {
    ...step,
    outcome: JSON.stringify({
      ...(keysUsedUp === undefined ? {} : { keysUsedUp }),
      ...(lost === undefined ? {} : { lost: 'sealed' }),
      sealed,
    }),
  };
}

/** @throws IdempotencyStoreUnavailableException when one cannot be read with the keys that are here */
export function openSteps(encryption: Encryption, key: KeyIdentity, steps: readonly FinishedStep[]): FinishedStep[] {
  return steps.map((step) => {
    const { sealed } = step.outcome;
    if (sealed === undefined) {
      return step;
    }
    const outcome = encryption.openText(sealed, identityOf(key, step.name));
    return { ...step, outcome: JSON.parse(outcome) as StepOutcome, bytes: Buffer.byteLength(outcome) };
  });
}

function identityOf({ scope, key }: KeyIdentity, step: string): string[] {
  return ['step', scope, key, step];
}
