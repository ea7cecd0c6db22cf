import type { ClaimEnd } from '../modes/claim.js';
import type { PeekResult } from '../postgres/statements/key-store.js';
import { deferred } from '../util/deferred.js';
import { SharedQuestion } from '../util/shared-question.js';

/** A request that runs in this process. */
export interface Running {
  readonly end: Promise<void>;
  /** What the table says of its key: its connection may be long dead, and another instance have the answer. */
  readonly look: SharedQuestion<PeekResult>;
}

/** Keys whose handler runs in this process: duplicates share one look at the table, and are woken at its end. */
export class RunningRequests {
  private readonly running = new Map<string, Running>();

  /** The ends of all requests of this process and when they began, also of those that are about to be recorded or rolled back. */
  private readonly unsettled = new Map<Promise<void>, number>();

  /** @param onRecorded told of each key that was recorded, by its name */
  constructor(private readonly onRecorded: (name: string) => void) {}

  get(name: string): Running | undefined {
    return this.running.get(name);
  }

  /** Has duplicates in this process wait for the end of the request. */
  start(name: string): ClaimEnd {
    const end = deferred();
    const running = { end: end.promise, look: new SharedQuestion<PeekResult>() };
    this.running.set(name, running);
    this.unsettled.set(end.promise, performance.now());
    return {
      begun: () => {
        if (this.running.get(name) === running) {
          this.running.delete(name);
        }
      },
      settled: (recorded) => {
        if (recorded) {
          this.onRecorded(name);
        }
        this.unsettled.delete(end.promise);
        end.resolve();
      },
    };
  }

  get count(): number {
    return this.unsettled.size;
  }

  /** How long the one has run that began first; 0 without any. */
  get oldestMs(): number {
    const [beganAt] = this.unsettled.values(); // a Map keeps the order
    return beganAt === undefined ? 0 : performance.now() - beganAt;
  }

  /** Waits for those that run now, each of which ends by its time limit at the latest. */
  async idle(): Promise<void> {
    await Promise.all(this.unsettled.keys());
  }
}
