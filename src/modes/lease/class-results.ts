import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Type } from '@nestjs/common';
import { decoratedClasses } from './decorated-classes.js';
import { DurableStepError } from '../../protocol/durable-step.error.js';
import { ClassResults } from './class-transformer.js';

let loading: Promise<ClassResults | undefined> | undefined;

/** What is done for a long list holds nobody else up for longer than that. */
const SLICE_MS = 10;

async function inSlices(value: unknown, work: (one: unknown) => unknown): Promise<unknown> {
  if (!Array.isArray(value)) {
    return work(value);
  }
  const done: unknown[] = [];
  let since = performance.now();
  for (const one of value) {
    if (performance.now() - since > SLICE_MS) {
      await nextTurn();
      since = performance.now();
    }
    done.push(work(one));
  }
  return done;
}

/** As NestJS comes by the package, which is optional; without it nothing is hidden. */
function load(): Promise<ClassResults | undefined> {
  return (loading ??= import('class-transformer').then(
    async (transformer) => new ClassResults(transformer, await decoratedClasses(transformer)),
    () => undefined,
  ));
}

/** What `ctx.step` has returned, as it may be stored. */
export async function resultOfStep(step: string, returned: unknown): Promise<unknown> {
  const classes = await load();
  return classes === undefined ? returned : inSlices(returned, (one) => classes.withoutHidden(step, one));
}

/** What `ctx.transaction` has returned, as it may be stored. @throws DurableStepError before its COMMIT */
export async function resultOfTransaction(
  step: string,
  as: Type<object> | undefined,
  value: unknown,
): Promise<unknown> {
  if (as !== undefined) {
    const classes = await classesFor(step);
    return inSlices(value, (one) => classes.dataOf(step, as, one));
  }
  const classes = await load();
  await inSlices(value, (one) => classes?.assertNothingHidden(step, one));
  return value;
}

/** What the handler is given of it. @throws DurableStepError before the step is run, too, where there is no such package */
export async function givenOf(step: string, as: Type<object> | undefined, stored: unknown): Promise<unknown> {
  return as === undefined ? stored : (await classesFor(step)).revive(as, stored);
}

async function classesFor(step: string): Promise<ClassResults> {
  const classes = await load();
  if (classes === undefined) {
    throw new DurableStepError(`Step "${step}" has the option \`as\`, which needs the package class-transformer.`);
  }
  return classes;
}
