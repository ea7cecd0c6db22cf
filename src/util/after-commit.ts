import { Logger } from '@nestjs/common';
import { errorWithoutValues } from './error-without-values.js';

export type AfterCommitCallback = () => unknown;

const logger = new Logger('Idempotency');

/** What is to happen once something has committed, in the order in which it was handed in. */
export class AfterCommit {
  private callbacks: AfterCommitCallback[] = [];

  add(callback: AfterCommitCallback): void {
    this.callbacks.push(callback);
  }

  /** What it belongs to has become part of something else, and commits with that. */
  moveTo(other: AfterCommit): void {
    other.callbacks.push(...this.callbacks);
    this.callbacks = [];
  }

  /** What it belongs to was undone. */
  drop(): void {
    this.callbacks = [];
  }

  /** Runs each of them once; errors are logged, since what they follow stands. */
  async run(): Promise<void> {
    const { callbacks } = this;
    this.callbacks = [];
    for (const callback of callbacks) {
      await runLogged(callback);
    }
  }
}

/** Its error, thrown or by a promise, is logged. */
export async function runLogged(callback: AfterCommitCallback): Promise<void> {
  try {
    await callback();
  } catch (error) {
    logger.error(errorWithoutValues(error));
  }
}
