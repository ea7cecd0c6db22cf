import { type Deferred, deferred } from '../../util/deferred.js';
import { requestStorage } from '../../util/request-storage.js';
import { within } from '../../util/timing.js';

interface StepPlace {
  readonly owner: object;
  readonly name: string;
  over: boolean;
  readonly ended: Deferred<void>;
}

/** The step whose function is running, or that has set up what is running. */
const insideOf = requestStorage<StepPlace>();

/**
 * A queue that several steps share runs the next of its jobs in the asynchronous context of the step whose job has ended,
 * which is about to end as well. A step that waits for one inside of it does not.
 */
const ABOUT_TO_END_MS = 500;

/** Runs the function of a step, so that what it calls is known to run inside of it. */
export async function runInside<T>(owner: object, name: string, run: () => T | Promise<T>): Promise<T> {
  const place = { owner, name, over: false, ended: deferred<void>() };
  try {
    return await insideOf.run(place, run);
  } finally {
    place.over = true;
    place.ended.resolve();
  }
}

/** The name of the step of this owner that the running code is inside of. */
export function stepAround(owner: object): string | undefined {
  const place = insideOf.getStore();
  return place?.owner === owner && !place.over ? place.name : undefined;
}

/** Waits a moment for a step around the running code that may be about to end. */
export async function untilStepAroundEnds(owner: object): Promise<void> {
  if (stepAround(owner) !== undefined) {
    await within(ABOUT_TO_END_MS, insideOf.getStore()!.ended.promise);
  }
}
