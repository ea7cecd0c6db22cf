import { type BeforeApplicationShutdown, Injectable, Logger, type OnApplicationBootstrap } from '@nestjs/common';
import { errorWithoutValues } from '../util/error-without-values.js';
import { IdempotencyRuntime } from '../idempotency.runtime.js';
import type { PurgedBatch } from '../postgres/statements/expired-keys.js';
import { delay } from '../util/timing.js';

/** Requests have the database to themselves for most of the time that a purge takes, the longer the busier it is. */
const PAUSE_PER_WORK = 2;

/** Deletes expired keys now and then. An expired key counts as absent in any case: this only keeps the tables small. */
@Injectable()
export class PurgeService implements OnApplicationBootstrap, BeforeApplicationShutdown {
  private readonly logger = new Logger('Idempotency');
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<unknown> = Promise.resolve();
  private readonly stopping = new AbortController();

  constructor(private readonly runtime: IdempotencyRuntime) {}

  onApplicationBootstrap(): void {
    if (this.runtime.settings.purge.isScheduled) {
      this.schedule();
    }
  }

  /** A batch under way is finished; its connection goes back before the DataSource is closed. */
  async beforeApplicationShutdown(): Promise<void> {
    this.stopping.abort();
    clearTimeout(this.timer);
    await this.running;
  }

  /**
   * Deletes all expired keys, batch by batch, until a batch is short, each with its steps. Answers how many keys it
   * deleted.
   */
  runOnce(): Promise<number> {
    const purge = this.deleteExpired();
    this.running = Promise.allSettled([this.running, purge]);
    return purge;
  }

  private async deleteExpired(): Promise<number> {
    const { expiredKeys, transactions, events } = this.runtime;
    const { batchSize } = this.runtime.settings.purge;
    const { signal } = this.stopping;
    let total = 0;
    let batch: PurgedBatch | undefined;
    do {
      const began = performance.now();
      batch = await transactions.outside(() => expiredKeys.purgeBatch(batchSize, batch));
      total += batch.deleted;
      const durationMs = performance.now() - began;
      if (events.isHeard) {
        events.publish({ type: 'purge-batch', deleted: batch.deleted, durationMs, locked: batch.locked });
      }
      if (batch.deleted >= batchSize) {
        await delay(durationMs * PAUSE_PER_WORK, undefined, { signal }).catch(() => undefined);
      }
    } while (batch.deleted >= batchSize && !signal.aborted);
    await transactions.outside(() => expiredKeys.purgeLeftSteps());
    return total;
  }

  private schedule(): void {
    // Instances that were started together do not purge together.
    const jitter = 0.9 + Math.random() * 0.2;
    this.timer = setTimeout(() => {
      void this.runOnce()
        .catch((error: unknown) => this.logger.error(errorWithoutValues(error)))
        .finally(() => {
          if (!this.stopping.signal.aborted) {
            this.schedule();
          }
        });
    }, this.runtime.settings.purge.intervalMs * jitter);
    this.timer.unref();
  }
}
