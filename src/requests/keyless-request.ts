import { randomUUID } from 'node:crypto';
import { Observable } from 'rxjs';
import type { EntityManager } from 'typeorm';
import { AfterCommit, type AfterCommitCallback, runLogged } from '../util/after-commit.js';
import type { StepTools } from '../protocol/step-call.js';
import type { AmbientTransactions } from '../postgres/ambient/ambient-transactions.js';
import { requestStorage } from '../util/request-storage.js';

const requests = requestStorage<KeylessRequest>();

/** The request without a key on whose behalf the running code works. */
export function runningKeylessRequest(): KeylessRequest | undefined {
  return requests.getStore();
}

/**
 * A request without a key, on a route that does not require one: its handler runs unprotected, and finds the same tools
 * as with one. Its own writes commit one by one.
 */
export class KeylessRequest {
  readonly attempt = 1;
  /** What keys for providers are made of: nobody else's. */
  readonly seed = randomUUID();
  private readonly controller = new AbortController();
  private readonly uponSuccess = new AfterCommit();
  private isOver = false;

  /** @param tools in lease mode */
  constructor(
    private readonly transactions: AmbientTransactions,
    readonly tools: StepTools | undefined,
  ) {}

  /** Aborted when an outer interceptor gives the handler up. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  createManager(): EntityManager {
    return this.transactions.dataSource.manager;
  }

  /** Once the handler has succeeded, since there is no COMMIT of all of it; in `ctx.transaction` after that one's. */
  afterCommit(callback: AfterCommitCallback): void {
    const step = this.transactions.transaction();
    if (step !== undefined) {
      step.afterCommit(callback);
    } else if (this.isOver) {
      void runLogged(callback);
    } else {
      this.uponSuccess.add(callback);
    }
  }

  /** What the handler gives. */
  run(handle: () => Observable<unknown>): Observable<unknown> {
    return new Observable((outer) => {
      const handler = requests.run(this, handle).subscribe({
        next: (value) => outer.next(value),
        error: (error: unknown) => {
          this.end();
          outer.error(error);
        },
        complete: () => {
          this.isOver = true;
          outer.complete();
          void this.uponSuccess.run();
        },
      });
      return () => {
        handler.unsubscribe();
        if (!this.isOver) {
          this.end();
          this.controller.abort(new Error('an outer interceptor gave the handler up'));
        }
      };
    });
  }

  private end(): void {
    this.isOver = true;
    this.uponSuccess.drop();
  }
}
