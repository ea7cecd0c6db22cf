import { Injectable } from '@nestjs/common';
import { IdempotencyRuntime } from './idempotency.runtime.js';
import type { StoredKey } from './persistence/key-store.js';
import { PurgeService } from './purge/purge.service.js';

/** For operators and for the application's own code; the request path does without it. */
@Injectable()
export class IdempotencyService {
  constructor(
    private readonly runtime: IdempotencyRuntime,
    private readonly purger: PurgeService,
  ) {}

  /** The recorded key, unless there is none, it has expired, or its request still runs. */
  find(key: string, scope = ''): Promise<StoredKey | undefined> {
    return this.runtime.store.find(this.runtime.dataSource, { key, scope });
  }

  /** Deletes a recorded key: the next request with it runs its handler. Tells whether there was one. */
  forget(key: string, scope = ''): Promise<boolean> {
    return this.runtime.store.forget(this.runtime.dataSource, { key, scope });
  }

  /**
   * Deletes all expired keys, in batches, and tells how many. For an application that schedules the purge itself
   * (`purge: false`); while another process purges, it leaves the work to that one.
   */
  purge(): Promise<number> {
    return this.purger.runOnce();
  }

  /**
   * Runs `work` outside of the request's transaction, on connections of its own: for writes that must survive a
   * rollback, such as an audit of failed attempts. They are made again each time the handler runs again, and need a
   * second connection of the pool while the request holds its first.
   */
  outsideTransaction<T>(work: () => T): T {
    return this.runtime.transactions.outside(work);
  }
}
