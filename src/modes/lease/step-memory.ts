import { deferred } from '../../util/deferred.js';
import { ANY_POSITION, type FinishedStep } from '../../protocol/step.js';
import { within } from '../../util/timing.js';

/** So long a new step waits for steps of the memory that code beside it may still come by: other work may delay them. */
const PASSING_BY_MS = 1_000;

/** What the code of an attempt and the memory of those before it disagree about. */
export interface Disagreement {
  readonly reason: 'steps-changed' | 'steps-reordered';
  /** Steps of the memory that were passed by. */
  readonly steps: string[];
  /** Where more is known than the reason. */
  readonly detail?: string;
}

/**
 * What earlier attempts have left, and how the code of this one comes by it. Steps are known by their names. Where code
 * runs steps side by side, latency decides their order, and nothing follows from it; where it runs them one after
 * another, a step of the memory that it has passed by shows that it is not the code that began the operation.
 */
export class StepMemory {
  private readonly unmet: Map<string, FinishedStep>;
  private readonly steps: ReadonlyMap<string, FinishedStep>;
  private readonly entered = new Set<string>();
  private readonly outOfTurn = new Set<string>();
  private ended = 0;
  private runsSideBySide: boolean;
  private changed = false;
  private next = deferred();

  constructor(finished: readonly FinishedStep[]) {
    this.steps = new Map(finished.map((step) => [step.name, step]));
    this.unmet = new Map(this.steps);
    const positions = new Set(finished.map(({ position }) => position));
    this.runsSideBySide = positions.size < finished.length || positions.has(ANY_POSITION);
  }

  get hasEntered(): boolean {
    return this.entered.size > 0;
  }

  /** Whether a step was begun under this name before. */
  has(id: string): boolean {
    return this.entered.has(id);
  }

  /** Its place: one more than the steps that have ended before it, so that those that run side by side may share one. */
  enter(id: string): number {
    this.runsSideBySide ||= this.entered.size > this.ended;
    const known = this.unmet.get(id);
    this.entered.add(id);
    this.unmet.delete(id);
    for (const { name, position } of known === undefined ? [] : this.unmet.values()) {
      if (position < known!.position) {
        this.outOfTurn.add(name);
      }
    }
    this.next.resolve();
    this.next = deferred();
    return this.ended + 1;
  }

  leave(): void {
    this.ended++;
  }

  recall(id: string): FinishedStep | undefined {
    return this.steps.get(id);
  }

  /** Steps of the memory that were begun behind it, one after another, and that this attempt has not come by. */
  passedBehind(id: string): string[] {
    const known = this.steps.get(id);
    return known === undefined || this.runsSideBySide
      ? []
      : [...this.unmet.values()].filter(({ position }) => position > known.position).map(({ name }) => name);
  }

  /** Whether a step that nobody remembers may begin. Waits for what other code of the handler still comes by. */
  async mayBegin(): Promise<boolean> {
    const deadline = performance.now() + PASSING_BY_MS;
    while (!this.changed && this.unmet.size > 0 && !this.runsSideBySide) {
      const leftMs = deadline - performance.now();
      this.changed = leftMs <= 0;
      await within(Math.max(leftMs, 0), this.next.promise);
    }
    return !this.changed;
  }

  /** @param isDone whether the handler has come to its end; one that has failed may not have come by everything */
  disagreement(isDone: boolean): Disagreement | undefined {
    if (this.changed || (isDone && this.unmet.size > 0 && !this.runsSideBySide)) {
      return { reason: 'steps-changed', steps: [...this.unmet.keys()] };
    }
    return this.outOfTurn.size > 0 && !this.runsSideBySide
      ? { reason: 'steps-reordered', steps: [...this.outOfTurn] }
      : undefined;
  }
}
