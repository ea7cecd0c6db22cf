import type { NewStep } from '../../postgres/statements/lease-statements.js';

interface Failure {
  readonly error: unknown;
  /** What is to be stored; absent where it is not to be, or is already. */
  pending: NewStep | undefined;
  isStored: boolean;
  /** Steps of this attempt that have finished since it was written down. */
  readonly answers: string[];
}

/**
 * What the steps of one attempt have failed with. Code may act upon a failure, and its next step then builds on it: before
 * that begins, the failure is written down, so that a later attempt takes the same way.
 */
export class StepFailures {
  private readonly failures = new Map<string, Failure>();

  /** @param step its memory, where a later attempt is to get it */
  note(id: string, error: unknown, step?: NewStep): void {
    this.failures.set(id, { error, pending: step, isStored: false, answers: [] });
  }

  /** It came from the memory. */
  recall(id: string, error: unknown): void {
    this.failures.set(id, { error, pending: undefined, isStored: true, answers: [] });
  }

  of(id: string): unknown {
    return this.failures.get(id)?.error;
  }

  /** Writes down what is not yet. @param add stores one step */
  async store(add: (step: NewStep) => Promise<void>): Promise<void> {
    for (const failure of this.failures.values()) {
      if (failure.pending !== undefined) {
        const { pending } = failure;
        failure.pending = undefined; // steps that begin side by side do not write it twice
        failure.isStored = true;
        await add(pending);
      }
    }
  }

  /** A step that was begun when they were known has finished. */
  answeredBy(id: string): void {
    for (const { isStored, answers } of this.failures.values()) {
      if (isStored) {
        answers.push(id);
      }
    }
  }

  answersTo(ids: readonly string[]): string[] {
    return [...new Set(ids.flatMap((id) => this.failures.get(id)?.answers ?? []))];
  }

  /** Those that an attempt ends with, by itself or as the cause of its error: its retry may try them again. */
  endedWith(error: unknown): string[] {
    // Of several that have thrown the same thing, a constant for instance, it is the last that went unanswered.
    const last = new Map([...this.failures].map(([id, failure]) => [failure.error, id]));
    return [...this.failures]
      .filter(([id, failure]) => failure.isStored && last.get(failure.error) === id && involves(error, failure.error))
      .map(([id]) => id);
  }
}

/** Deep enough for what frameworks wrap around an error, and an end where causes go in a circle. */
const DEEPEST_CAUSE = 10;

function involves(error: unknown, failure: unknown, depth = 0): boolean {
  if (error === failure) {
    return true;
  }
  if (!(error instanceof Error) || depth > DEEPEST_CAUSE) {
    return false;
  }
  const { errors } = error as { errors?: unknown };
  return [error.cause, ...(Array.isArray(errors) ? (errors as unknown[]) : [])].some(
    (inner) => inner !== undefined && involves(inner, failure, depth + 1),
  );
}
