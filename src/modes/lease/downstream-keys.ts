import { createHash } from 'node:crypto';
import { Logger } from '@nestjs/common';
import { errorWithoutValues } from '../../util/error-without-values.js';
import { ANY_POSITION, type FinishedStep, type StepOutcome } from '../../protocol/step.js';
import type { NewStep } from '../../postgres/statements/lease-statements.js';
import type { StepOptions } from '../../protocol/step-call.js';

const logger = new Logger('Idempotency');

/**
 * How many keys of each step a provider has used up, by keeping an error under them. Written down before anybody learns
 * of that error: whoever uses the next key, a process that dies behind it, and the one that comes after, use the same.
 */
export class DownstreamKeys {
  private readonly counts = new Map<string, number>();

  constructor(remembered: readonly FinishedStep[]) {
    for (const { keysUsedUp } of remembered.map(({ outcome }) => outcome)) {
      if (keysUsedUp !== undefined) {
        this.counts.set(keysUsedUp.step, Math.max(keysUsedUp.count, this.usedUp(keysUsedUp.step)));
      }
    }
  }

  usedUp(id: string): number {
    return this.counts.get(id) ?? 0;
  }

  /** Where it cannot be written down the key stays: the provider will give the error again. */
  async renewAfter(
    error: unknown,
    step: Omit<NewStep, 'outcome'>,
    { newKeyAfter }: StepOptions,
    remember: (step: NewStep) => Promise<void>,
  ): Promise<void> {
    try {
      if ((await newKeyAfter?.(error)) === true) {
        const count = this.usedUp(step.name) + 1;
        const outcome: StepOutcome = { keysUsedUp: { step: step.name, count } };
        const name = `key ${count} of ${createHash('sha256').update(step.name).digest('hex')}`;
        await remember({ ...step, name, position: ANY_POSITION, outcome: JSON.stringify(outcome) });
        this.counts.set(step.name, count);
      }
    } catch (problem) {
      logger.error(errorWithoutValues(problem));
    }
  }
}
