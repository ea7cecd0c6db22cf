import type { EntityManager } from 'typeorm';
import { isRetryable } from '../../postgres/sqlstate.js';
import type { LeaseStore } from '../../postgres/statements/lease-store.js';
import { FencedOffError, TransactionEndedByHandlerError } from '../../postgres/statements/store-errors.js';
import { IdempotencyTransactionFailedException } from '../../protocol/exceptions.js';
import type { RouteOptions } from '../../protocol/options.js';
import { delay, rerunPauseMs } from '../../util/timing.js';
import type { EffectMemory, UnfinishedStep } from './effect-memory.js';
import type { StepHold } from './step-hold.js';
import { StepTransaction } from './step-transaction.js';

/** The transactions of an attempt's steps, each run again where it met a concurrent one. */
export class StepTransactions {
  private readonly running = new Set<StepTransaction>();

  /** @param route for the log: "POST /orders" */
  constructor(
    private readonly hold: StepHold,
    private readonly store: LeaseStore,
    private readonly effects: EffectMemory,
    private readonly options: Pick<RouteOptions, 'isolation' | 'retries' | 'timeoutMs' | 'stepTimeoutMs'>,
    private readonly route: string,
  ) {}

  /** Why the transaction of a step takes so long, where it waits for itself. */
  get stall(): Error | undefined {
    return [...this.running].map(({ stall }) => stall).find((stall) => stall !== undefined);
  }

  async run<T>(step: UnfinishedStep, run: (manager: EntityManager) => Promise<T>): Promise<string> {
    const { retries } = this.options;
    for (let tried = 1; ; tried++) {
      const transaction = new StepTransaction(this.hold, this.store, this.options, this.route);
      this.running.add(transaction);
      try {
        return await transaction.run(step, run);
      } catch (error) {
        if (error instanceof FencedOffError) {
          throw this.hold.lose();
        }
        if (error instanceof TransactionEndedByHandlerError) {
          this.effects.noteLost();
          throw new IdempotencyTransactionFailedException(
            `Step "${step.name}" ended its transaction by a statement of its own, so its result could not be stored with its writes.`,
            { cause: error },
          );
        }
        if (!isRetryable(error) || tried > retries) {
          throw error;
        }
        await delay(rerunPauseMs(tried));
        await this.hold.ensure();
      } finally {
        this.running.delete(transaction);
      }
    }
  }
}
