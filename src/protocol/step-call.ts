import type { Type } from '@nestjs/common';
import type { EntityManager } from 'typeorm';
import { DurableStepError } from './durable-step.error.js';
import type { Serialized } from './serialized.js';

export interface StepOptions {
  /**
   * What tells this step from others of the same name, where it runs in a loop: an item's id. The same for the same item
   * in every attempt, so never a position. With the name at most 252 characters. @default none
   */
  key?: string | number | bigint;
  /**
   * Whether the provider keeps this error of the step under the step's `downstreamKey`, so that it would answer with it for
   * ever: from then on the step has another key, in this attempt and in every later one. Answer true only where it is
   * certain that the effect was not had. What it throws is logged, and means false. @default never
   */
  newKeyAfter?: (error: unknown) => boolean | Promise<boolean>;
  /**
   * Of `ctx.transaction`: the class of what it returns, or of what is in the list. It gives instances of it, in the first
   * attempt and in every later one, for ClassSerializerInterceptor to hide what the class does; what it always hides is
   * neither stored nor given. Needs class-transformer. @default plain data; a class that hides something is refused
   */
  as?: Type<object>;
}

export type StepWork<T> = () => T | Promise<T>;
export type TransactionWork<T> = (manager: EntityManager) => T | Promise<T>;

/** What stands behind the name: options before the function or behind it. */
export type StepArguments<Run> = [Run | StepOptions, (Run | StepOptions)?];

/** `ctx.step()` and `ctx.transaction()`, as an attempt provides them. */
export interface StepTools {
  /** How many keys of the step a provider has used up. */
  keysUsedUp(id: string): number;
  step<T>(name: string, ...given: StepArguments<StepWork<T>>): Promise<Serialized<T>>;
  transaction<T>(name: string, ...given: StepArguments<TransactionWork<T>>): Promise<Serialized<T>>;
}

/** Is told of a step that has ended well, and how long it took; without that, of one that was remembered. */
export type StepWatch = (name: string, ms?: number) => void;

/** What a handler gave to `ctx.step()` or `ctx.transaction()`. */
export interface StepCall<Run> {
  /** As it stands in the code. */
  readonly name: string;
  /** Name and key: what the step is remembered by. */
  readonly id: string;
  readonly options: StepOptions;
  readonly run: Run;
}

const MAX_ID_LENGTH = 255;
const LONE_SURROGATE = /\p{Surrogate}/u;
const OPTIONS = ['key', 'newKeyAfter', 'as'] satisfies (keyof StepOptions)[];

/** @throws DurableStepError when it is no step */
export function stepCall<Run extends (...args: never[]) => unknown>(
  name: string,
  given: StepArguments<Run>,
): StepCall<Run> {
  const run = given.find((argument) => typeof argument === 'function');
  const options = given.find((argument) => typeof argument === 'object') ?? {};
  if (run === undefined) {
    throw new DurableStepError(`Step "${name}" has no function to run.`);
  }
  for (const option of Object.keys(options)) {
    if (!(OPTIONS as string[]).includes(option)) {
      throw new DurableStepError(
        `Step "${name}": there is no option '${option}'. The options are ${OPTIONS.join(', ')}.`,
      );
    }
  }
  if (options.as !== undefined && typeof options.as !== 'function') {
    throw new DurableStepError(`Step "${name}": \`as\` must be a class.`);
  }
  return { name, id: stepId(name, options), options, run };
}

/** @throws DurableStepError when a step cannot be remembered by it */
export function stepId(name: string, { key }: Pick<StepOptions, 'key'> = {}): string {
  if (!isText(name)) {
    throw new DurableStepError(`The name of a step must be a text of 1 to ${MAX_ID_LENGTH} characters.`);
  }
  if (key === undefined) {
    return name;
  }
  if ((typeof key === 'number' && !Number.isFinite(key)) || !isText(String(key)) || typeof key === 'object') {
    throw new DurableStepError(
      `The key of step "${name}" must be a text or a number that is the same for the same item in every attempt, not ${String(key)}.`,
    );
  }
  const id = `${name} [${key}]`;
  if (id.length > MAX_ID_LENGTH) {
    throw new DurableStepError(
      `The name of a step must have 1 to ${MAX_ID_LENGTH} characters together with its key: "${name}" has ${id.length}.`,
    );
  }
  return id;
}

function isText(text: unknown): boolean {
  return (
    typeof text === 'string' &&
    text.length >= 1 &&
    text.length <= MAX_ID_LENGTH &&
    !text.includes('\0') &&
    !LONE_SURROGATE.test(text)
  );
}
