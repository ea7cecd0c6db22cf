import { DurableStepError } from '../../protocol/durable-step.error.js';

type Members = Partial<Record<string | symbol, unknown>>;

/**
 * What somebody has yet to run: an Observable, a generator, a function. The step has done nothing, and what JSON makes of it
 * would be remembered as if it had.
 *
 * @throws DurableStepError
 */
export function assertHasRun(step: string, result: unknown): void {
  if (typeof result === 'function') {
    throw new DurableStepError(
      `Step "${step}" has returned a function, which nobody runs: call it, and return what it gives.`,
    );
  }
  const members = membersOf(result);
  if (typeof members['subscribe'] === 'function' && typeof members['pipe'] === 'function') {
    throw new DurableStepError(
      `Step "${step}" has returned an Observable, to which nobody subscribes: return firstValueFrom() or lastValueFrom() of it.`,
    );
  }
  if (typeof members['next'] === 'function' && typeof members['throw'] === 'function') {
    throw new DurableStepError(
      `Step "${step}" is a generator, which nobody runs: a step is an ordinary or async function.`,
    );
  }
}

/** Deep enough for a list of what was asked for in parallel; what lies deeper JSON leaves out as it always does. */
const DEPTH = 3;

/**
 * What has something to give that JSON has no word for, so that a later attempt would get `{}`, be it in a list or an object.
 *
 * @throws DurableStepError
 */
export function assertIsKept(step: string, result: unknown, depth = DEPTH): void {
  const advice = ADVICE.find(({ fits }) => fits(result))?.advice;
  if (advice !== undefined) {
    const { constructor } = membersOf(result);
    const name = typeof constructor === 'function' ? constructor.name : 'thing';
    throw new DurableStepError(
      `The result of step "${step}" ${depth === DEPTH ? 'is' : 'has'} a ${name}, of which JSON keeps nothing: ${advice}.`,
    );
  }
  if (depth > 0 && isPlain(result)) {
    for (const member of Object.values(result)) {
      assertIsKept(step, member, depth - 1);
    }
  }
}

function isPlain(value: unknown): value is object {
  if (Array.isArray(value)) {
    return true;
  }
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

const ADVICE: readonly { fits(result: unknown): boolean; advice: string }[] = [
  {
    fits: (result) => typeof membersOf(result)['then'] === 'function',
    advice: 'wait for it in the step, by Promise.all() for instance',
  },
  { fits: (result) => result instanceof Map, advice: 'return Object.fromEntries() of it' },
  { fits: (result) => result instanceof Set, advice: 'return a list of its members' },
  {
    fits: (result) => typeof membersOf(result)['json'] === 'function' && 'body' in membersOf(result),
    advice: 'read it in the step, and return what later steps need of it, such as await response.json()',
  },
  {
    fits: (result) => typeof membersOf(result)[Symbol.asyncIterator] === 'function',
    advice: 'read it in the step, and return what it has given',
  },
];

function membersOf(value: unknown): Members {
  return typeof value === 'object' && value !== null ? (value as Members) : {};
}
