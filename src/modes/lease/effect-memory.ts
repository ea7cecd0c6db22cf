import { Logger } from '@nestjs/common';
import { errorWithoutValues } from '../../util/error-without-values.js';
import { within } from '../../util/timing.js';
import type { NewStep } from '../../postgres/statements/lease-statements.js';
import { isDefiniteFailure } from '../../postgres/sqlstate.js';
import { DurableStepError } from '../../protocol/durable-step.error.js';
import type { Attention } from '../../protocol/stored-key.js';
import type { StepHold } from './step-hold.js';
import { lostAsJson } from './step-outcome.js';

/** A step that runs: its memory, but for the outcome. */
export type UnfinishedStep = Omit<NewStep, 'outcome'>;

/** What is remembered of effects that steps have had, and of those of which nothing can be. */
export class EffectMemory {
  private static readonly logger = new Logger('Idempotency');

  private readonly lost: string[] = [];
  private effectUnknown = false;

  constructor(private readonly hold: StepHold) {}

  /** Whether a step has had its effect, and nothing tells of it. */
  get lostAnEffect(): boolean {
    return this.effectUnknown;
  }

  /** Whether a tombstone says so of a step: until an operator has spoken nobody goes on. */
  get waitForOperator(): boolean {
    return this.lost.length > 0;
  }

  /** Part of a step's writes may have been committed without it. */
  noteLost(): void {
    this.effectUnknown = true;
  }

  /** The memory of an effect. What the store refuses for good is left to an operator, as is what has no JSON. */
  async remember(step: NewStep): Promise<void> {
    try {
      await this.hold.remember(step);
    } catch (error) {
      this.effectUnknown = true;
      if (isDefiniteFailure(error instanceof Error ? error.cause : undefined)) {
        await this.bury(step, 'The store has refused its result.').catch(() => undefined);
      }
      throw error;
    }
  }

  /** The effect is there: where nothing can be remembered of it, a tombstone is, lest it be had again. */
  async orTombstone<T>(step: UnfinishedStep, remember: () => T | Promise<T>): Promise<T> {
    try {
      return await remember();
    } catch (error) {
      this.effectUnknown = true;
      const problem = error instanceof Error ? error.message : String(error);
      const isKept = await this.bury(step, problem).then(
        () => true,
        () => false, // the policy for interruptions decides
      );
      const remedy =
        ' Nobody can tell what came of it, so no retry goes on until an operator has looked: IdempotencyService.resolve() records the response, .release() has the step run again.';
      throw new DurableStepError(problem + (isKept ? remedy : ''), { cause: error });
    }
  }

  private async bury(step: UnfinishedStep, detail: string): Promise<void> {
    const attention: Attention = { reason: 'effect-unknown', steps: [...this.lost, step.name], detail };
    await this.hold.remember({ ...step, outcome: lostAsJson(detail) }, attention);
    this.lost.push(step.name);
  }

  /** A step that hangs must not keep its key for ever, nor give it to anybody while it may still act. */
  async inTime<T>(step: UnfinishedStep, stepTimeoutMs: number, run: () => Promise<T>): Promise<T> {
    const running = run().then((value) => ({ value }));
    const ended = await within(stepTimeoutMs, running);
    if (ended !== undefined) {
      return ended.value;
    }
    running.then(
      () =>
        EffectMemory.logger.error(`Step "${step.name}" has ended, after it was given up: its result is not stored.`),
      (error: unknown) => EffectMemory.logger.error(errorWithoutValues(error)),
    );
    return this.orTombstone(step, () => {
      throw new DurableStepError(`Step "${step.name}" did not end within ${stepTimeoutMs} ms (stepTimeoutMs).`);
    });
  }
}
