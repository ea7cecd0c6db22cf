import { randomUUID } from 'node:crypto';
import type { PoolClient } from 'pg';
import { setTimeout as delay } from 'node:timers/promises';
import { Claim, type ClaimedRequest } from './claim.js';
import { deferred } from './deferred.js';
import { failpoint } from './failpoint.js';
import {
  IN_FLIGHT_POLL_MS,
  OUTCOME_LOOK_UPS,
  POOL_WAIT_MS,
  RECENT_KEYS,
  TRANSACTION_TIMEOUT_SLACK_MS,
} from './idempotency.constants.js';
import { IdempotencyStoreUnavailableException } from './idempotency.exceptions.js';
import { RecentKeys } from './recent-keys.js';
import type { IsolationLevel, RouteOptions } from './idempotency.options.js';
import { AmbientTransaction } from './persistence/ambient-transaction.js';
import type { AmbientTransactions } from './persistence/ambient-transactions.js';
import type { DatabaseConnection } from './persistence/database-connection.js';
import type { ClaimRequest, ClaimResult, KeyStore, StoredHeader, StoredResponse } from './persistence/key-store.js';

/** A request, as far as idempotency is concerned. */
export interface IdempotentRequest extends Omit<ClaimedRequest, 'claimId' | 'ttlMs'> {
  options: Pick<RouteOptions, 'ttlMs' | 'inFlight' | 'isolation' | 'timeoutMs' | 'storeErrors'>;
}

/** A response that can be sent again. */
export interface ReplayableResponse {
  status: number;
  headers: StoredHeader[];
  body: Buffer;
}

/** What a request finds under its key. */
export type Outcome =
  | { kind: 'claimed'; claim: Claim }
  | { kind: 'completed'; response: ReplayableResponse }
  | { kind: 'not kept'; originalStatus: number; completedAt: Date }
  | { kind: 'mismatch' }
  | { kind: 'in flight' };

/** The state machine of a key: absent, claimed by a running request, recorded. Knows no HTTP. */
export class ClaimService {
  /** Keys whose handler runs in this process, each with a promise of its end: duplicates need not ask the database. */
  private readonly running = new Map<string, Promise<void>>();

  private readonly recent = new RecentKeys(RECENT_KEYS);

  constructor(
    private readonly store: KeyStore,
    private readonly transactions: AmbientTransactions,
  ) {}

  /**
   * Claims the key, or says why not. Under `inFlight: { waitMs }` it waits for a running request, without a
   * connection in hand.
   *
   * @throws IdempotencyStoreUnavailableException when the key cannot be claimed; the handler must not run then
   */
  async claim(request: IdempotentRequest): Promise<Outcome> {
    const { inFlight } = request.options;
    const deadline = performance.now() + (inFlight === 'reject' ? 0 : inFlight.waitMs);
    for (let pauseMs: number = IN_FLIGHT_POLL_MS.first; ; pauseMs = Math.min(pauseMs * 2, IN_FLIGHT_POLL_MS.longest)) {
      const running = this.running.get(nameOf(request));
      const outcome: Outcome =
        running === undefined
          ? ((await this.replayOfRecent(request)) ?? (await this.attempt(request)))
          : { kind: 'in flight' };
      const leftMs = deadline - performance.now();
      if (outcome.kind !== 'in flight' || leftMs <= 0) {
        return outcome;
      }
      // A request of this process wakes its duplicates itself; for another's the table is looked at again.
      await (running === undefined ? delay(Math.min(leftMs, jittered(pauseMs))) : within(leftMs, running));
    }
  }

  /**
   * What became of a claim whose COMMIT was never answered: 'recorded' when it took place, otherwise what its key
   * holds now.
   *
   * @throws IdempotencyStoreUnavailableException when it did not take place, or that cannot be told: a retry will see
   */
  async outcomeOf(claim: Claim, request: IdempotentRequest): Promise<'recorded' | Outcome> {
    for (let attempt = 1; attempt <= OUTCOME_LOOK_UPS.attempts; attempt++) {
      failpoint('outcome: looking');
      const found = await this.look(request);
      if (found.kind === 'completed') {
        return found.response.claimId === claim.request.claimId ? 'recorded' : outcomeOf(found.response, request);
      }
      if (found.kind === 'claimed') {
        // The lock was free and the row is not there: the transaction is over and was rolled back.
        throw new IdempotencyStoreUnavailableException('The connection was lost and the operation was rolled back.');
      }
      await delay(OUTCOME_LOOK_UPS.pauseMs); // the old session still holds the lock: it has not finished
    }
    throw new IdempotencyStoreUnavailableException('The connection was lost while the operation was committed.');
  }

  /** Waits for the requests that are running; each ends by its time limit at the latest. */
  async idle(): Promise<void> {
    await Promise.all(this.running.values());
  }

  /** What the key holds, for a request that has lost it to another one. */
  async outcomeOfOther(request: IdempotentRequest): Promise<Outcome> {
    const found = await this.look(request);
    return found.kind === 'completed' ? outcomeOf(found.response, request) : { kind: 'in flight' };
  }

  /** A key that was recorded here a short while ago is most likely still there: then no transaction is begun for it. */
  private async replayOfRecent(request: IdempotentRequest): Promise<Outcome | undefined> {
    const name = nameOf(request);
    if (!this.recent.has(name)) {
      return undefined;
    }
    const { connection, result } = await this.onConnection((client) => this.store.lookUp(client, request));
    connection.release();
    if (result === undefined) {
      this.recent.delete(name);
      return undefined;
    }
    return outcomeOf(result, request);
  }

  private async attempt(request: IdempotentRequest): Promise<Outcome> {
    const { options, ...identified } = request;
    const isolation = options.isolation ?? this.transactions.defaultIsolation;
    const claimed: ClaimedRequest = { ...identified, claimId: randomUUID(), ttlMs: options.ttlMs };
    const { connection, result } = await this.tryClaim({
      scope: request.scope,
      key: request.key,
      claimId: claimed.claimId,
      transactionTimeoutMs: options.timeoutMs + TRANSACTION_TIMEOUT_SLACK_MS,
      isolation,
      savepoint: options.storeErrors !== undefined,
    });
    switch (result.kind) {
      case 'claimed':
        return { kind: 'claimed', claim: this.started(claimed, connection, isolation) };
      case 'completed':
        this.giveBack(connection);
        this.recent.add(nameOf(request));
        return outcomeOf(result.response, request);
      case 'in flight':
        this.giveBack(connection);
        return result;
    }
  }

  private async look(request: IdempotentRequest): Promise<ClaimResult> {
    const { connection, result } = await this.tryClaim({
      scope: request.scope,
      key: request.key,
      claimId: randomUUID(),
      transactionTimeoutMs: TRANSACTION_TIMEOUT_SLACK_MS,
      isolation: undefined,
      savepoint: false,
    });
    this.giveBack(connection);
    return result;
  }

  private tryClaim(request: ClaimRequest): Promise<{ connection: DatabaseConnection; result: ClaimResult }> {
    return this.onConnection((client) => this.store.claim(client, request));
  }

  /** One question on a connection of its own; bounded, also where the database does not answer at all. */
  private async onConnection<T>(
    ask: (client: PoolClient) => Promise<T>,
  ): Promise<{ connection: DatabaseConnection; result: T }> {
    for (;;) {
      failpoint('claim: connecting');
      const connection = await this.connect();
      failpoint('claim: connected');
      const timer = setTimeout(
        () => connection.destroy(new Error(`no answer within ${POOL_WAIT_MS} ms`)),
        POOL_WAIT_MS,
      );
      try {
        const result = await ask(connection.client);
        failpoint('claim: answered');
        return { connection, result };
      } catch (error) {
        connection.destroy(error);
        if (!this.store.shouldClaimAgain(error)) {
          throw new IdempotencyStoreUnavailableException('The idempotency key could not be claimed.', { cause: error });
        }
      } finally {
        clearTimeout(timer);
      }
    }
  }

  /** A connection, or an error after a bounded wait; pg's own pool waits without bound unless told otherwise. */
  private async connect(): Promise<DatabaseConnection> {
    const connecting = this.transactions.connect();
    const connection = await within(POOL_WAIT_MS, connecting).catch((cause: unknown) => {
      throw new IdempotencyStoreUnavailableException('The database cannot be reached.', { cause });
    });
    if (connection === undefined) {
      void connecting.then(
        (late) => late.release(),
        () => undefined,
      );
      throw new IdempotencyStoreUnavailableException('All database connections are in use.');
    }
    return connection;
  }

  private started(
    claimed: ClaimedRequest,
    connection: DatabaseConnection,
    isolation: IsolationLevel | undefined,
  ): Claim {
    const transaction = new AmbientTransaction(this.transactions, connection, isolation ?? 'READ COMMITTED');
    const name = nameOf(claimed);
    const running = deferred();
    this.running.set(name, running.promise);
    return new Claim(claimed, transaction, this.store, () => {
      if (this.running.get(name) === running.promise) {
        this.running.delete(name);
      }
      if (transaction.state === 'committed') {
        this.recent.add(name);
      }
      running.resolve();
    });
  }

  /** Ends a transaction that has only looked. The answer to the client does not wait for it. */
  private giveBack(connection: DatabaseConnection): void {
    const limit = setTimeout(() => connection.destroy(new Error('the rollback was not answered')), POOL_WAIT_MS);
    void this.store
      .rollback(connection.client)
      .then(
        () => connection.release(),
        (error: unknown) => connection.destroy(error),
      )
      .finally(() => clearTimeout(limit));
  }
}

function outcomeOf(stored: StoredResponse, request: IdempotentRequest): Outcome {
  if (stored.fingerprintVersion !== request.fingerprintVersion || !stored.fingerprint.equals(request.fingerprint)) {
    return { kind: 'mismatch' };
  }
  const { status, headers, body, createdAt } = stored;
  return body === null
    ? { kind: 'not kept', originalStatus: status, completedAt: createdAt }
    : { kind: 'completed', response: { status, headers, body } };
}

function nameOf({ scope, key }: { scope: string; key: string }): string {
  return JSON.stringify([scope, key]);
}

/** Half to one and a half of it, so that waiting duplicates do not all look at once. */
function jittered(ms: number): number {
  return ms * (0.5 + Math.random());
}

/** The promise's value, or `undefined` when it takes longer. */
function within<T>(ms: number, promise: Promise<T>): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms, undefined);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
