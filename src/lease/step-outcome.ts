import { HttpException } from '@nestjs/common';
import { MAX_STEP_BYTES } from '../idempotency.constants.js';
import type { StepOutcome } from '../persistence/lease-store.js';
import { DurableStepError } from './durable-step.error.js';

/**
 * What JSON makes of a value: a step gives this on its first attempt, too, so that no handler depends on whether it
 * was interrupted.
 */
export type Serialized<T> = T extends { toJSON(): infer J }
  ? Serialized<J>
  : T extends string | number | boolean | null | undefined | void
    ? T
    : T extends bigint | symbol | ((...args: never[]) => unknown)
      ? never
      : T extends object
        ? { [K in keyof T as T[K] extends (...args: never[]) => unknown ? never : K]: Serialized<T[K]> }
        : unknown;

/** @throws DurableStepError when it cannot be stored */
export function outcomeAsJson(step: string, outcome: StepOutcome): string {
  let json: string;
  try {
    json = JSON.stringify(outcome);
  } catch (cause) {
    throw new DurableStepError(`The result of step "${step}" cannot be stored as JSON.`, { cause });
  }
  const bytes = Buffer.byteLength(json);
  if (bytes > MAX_STEP_BYTES) {
    throw new DurableStepError(
      `The result of step "${step}" takes ${bytes} bytes as JSON, more than the ${MAX_STEP_BYTES} that are stored. Return no more of it than later steps need.`,
    );
  }
  return json;
}

/** What the step gives its handler. @throws HttpException where the step has ended with an error that was stored */
export function resultOf({ returned, threw }: StepOutcome): unknown {
  if (threw !== undefined) {
    throw new HttpException(threw.response as string | Record<string, unknown>, threw.status);
  }
  return returned;
}
