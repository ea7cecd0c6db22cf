import { HttpException } from '@nestjs/common';
import { MAX_STEP_BYTES } from '../../protocol/constants.js';
import type { StepFailure, StepOutcome } from '../../protocol/step.js';
import type { RouteOptions } from '../../protocol/options.js';
import { DurableStepError } from '../../protocol/durable-step.error.js';
import { ofKnownClass } from './known-errors.js';

/** @throws DurableStepError when it cannot be stored */
export function outcomeAsJson(step: string, outcome: StepOutcome): string {
  let json: string;
  try {
    json = JSON.stringify(outcome);
  } catch (cause) {
    throw withoutJson(step, cause);
  }
  const bytes = Buffer.byteLength(json);
  if (bytes > MAX_STEP_BYTES) {
    throw new DurableStepError(
      `The result of step "${step}" takes ${bytes} bytes as JSON, more than the ${MAX_STEP_BYTES} that are stored. Return no more of it than later steps need.`,
    );
  }
  return json;
}

export function withoutJson(step: string, cause: unknown): DurableStepError {
  return new DurableStepError(`The result of step "${step}" cannot be stored as JSON.`, { cause });
}

/** Beyond these an error carries what nobody has read over for the store. */
const FAILURE_LIMITS = { properties: 20, characters: 1_000 } as const;

/** What errors of database drivers carry of statements and their values. */
const NEVER_STORED = new Set(['query', 'detail', 'where', 'internalQuery', 'stack', 'message', 'name']);

/** A failure that code may act upon. `threw` is what instances of the version before give in its place. */
export function failureAsJson(error: unknown): string {
  const failure = failureOf(error);
  const threw =
    error instanceof HttpException
      ? { status: error.getStatus(), response: error.getResponse() }
      : { status: 500, response: 'A step of the operation has failed.' };
  try {
    const json = JSON.stringify({ threw, failure });
    if (Buffer.byteLength(json) <= MAX_STEP_BYTES) {
      return json;
    }
  } catch {
    // its response has no JSON
  }
  return JSON.stringify({ threw: { ...threw, response: failure.message }, failure });
}

/** What is known of an error without its class: the same of one that was thrown and of one that was remembered. */
export function failureOf(error: unknown): StepFailure {
  try {
    return describe(error);
  } catch {
    // A getter of it throws, for instance: nothing of that must take its place.
    return { name: 'Error', message: 'An error that cannot be described.', properties: {}, isHttp: false };
  }
}

function describe(error: unknown): StepFailure {
  if (!(error instanceof Error)) {
    return { name: 'Error', message: String(error).slice(0, FAILURE_LIMITS.characters), properties: {}, isHttp: false };
  }
  const properties = Object.entries(error)
    .filter(([name, value]) => !NEVER_STORED.has(name) && isSmall(value))
    .slice(0, FAILURE_LIMITS.properties);
  return {
    name: String(error.name),
    message: textOf(error.message).slice(0, FAILURE_LIMITS.characters),
    properties: Object.fromEntries(properties) as StepFailure['properties'],
    isHttp: error instanceof HttpException,
  };
}

/** Some put an object there, or nothing. */
function textOf(message: unknown): string {
  return typeof message === 'string' ? message : (JSON.stringify(message) ?? '');
}

function isSmall(value: unknown): boolean {
  return (
    typeof value === 'number' ||
    typeof value === 'boolean' ||
    (typeof value === 'string' && value.length <= FAILURE_LIMITS.characters)
  );
}

/** An effect that is known to have been had, or may still be, and whose result is not. */
export function lostAsJson(detail: string): string {
  return JSON.stringify({ threw: { status: 409, response: 'The outcome of a step is unknown.' }, lost: detail });
}

/** What the step has thrown, as nearly as it can be told; nothing where it has returned. */
export function errorOf({ threw, failure }: StepOutcome): Error | undefined {
  if (threw === undefined) {
    return undefined;
  }
  if (failure === undefined || failure.isHttp) {
    const error = new HttpException(threw.response as string | Record<string, unknown>, threw.status);
    return failure === undefined
      ? error
      : ofKnownClass(Object.assign(error, { message: failure.message }), failure.name, true);
  }
  const error = Object.assign(new Error(failure.message), { name: failure.name }, failure.properties);
  return ofKnownClass(error, failure.name, false);
}

/** An error that the route stores, as the outcome of its step. */
export function storedErrorAsJson(
  name: string,
  error: unknown,
  storeErrors: RouteOptions['storeErrors'],
): string | undefined {
  if (!(error instanceof HttpException)) {
    return undefined;
  }
  const status = error.getStatus();
  if (status >= 500 || storeErrors?.(status) !== true) {
    return undefined;
  }
  try {
    return outcomeAsJson(name, { threw: { status, response: error.getResponse() } });
  } catch {
    return undefined; // its response has no JSON
  }
}
