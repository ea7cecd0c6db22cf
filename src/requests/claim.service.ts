import { randomUUID } from 'node:crypto';
import type { Claim, ClaimEnd } from '../modes/claim.js';
import type { Connections } from '../postgres/connections.js';
import { deferred } from '../util/deferred.js';
import { failpoint } from '../util/failpoint.js';
import {
  IN_FLIGHT_LOOK_MS,
  IN_FLIGHT_POLL_MS,
  OUTCOME_LOOK_UPS,
  RECENT_KEYS,
  TRANSACTION_TIMEOUT_SLACK_MS,
} from '../protocol/constants.js';
import { IdempotencyStoreUnavailableException } from '../protocol/exceptions.js';
import type { RouteOptions } from '../protocol/options.js';
import { KeylessRequest } from './keyless-request.js';
import type { LeaseService } from '../modes/lease/lease.service.js';
import { AmbientTransaction } from '../postgres/ambient/ambient-transaction.js';
import type {
  ClaimedRequest,
  ClaimRequest,
  ClaimResult,
  KeyStore,
  PeekResult,
} from '../postgres/statements/key-store.js';
import { OwnedTransaction } from '../postgres/owned-transaction.js';
import type { FoundKey, StoredHeader, UnfinishedClaim } from '../postgres/statements/shared-statements.js';
import { RecentKeys, type Sighting } from '../util/recent-keys.js';
import { SharedQuestion, SharedQuestions } from '../util/shared-question.js';
import { settingsAtBegin } from '../postgres/session-settings.js';
import { delay, jittered, within } from '../util/timing.js';
import { TransactionClaim } from '../modes/transaction/transaction-claim.js';

/** A request, as far as idempotency is concerned. */
export interface IdempotentRequest extends Omit<ClaimedRequest, 'claimId' | 'ttlMs'> {
  options: Pick<
    RouteOptions,
    | 'mode'
    | 'leaseMs'
    | 'stepTimeoutMs'
    | 'maxStepsBytes'
    | 'onInterrupted'
    | 'ttlMs'
    | 'inFlight'
    | 'isolation'
    | 'retries'
    | 'timeoutMs'
    | 'storeErrors'
  >;
}

/** A request whose route does not require a key. */
export interface RequestWithoutKey {
  readonly key?: undefined;
  /** @throws what the route's option has thrown */
  readonly scope: () => string;
  readonly method: string;
  readonly path: string;
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
  | { kind: 'in flight' }
  /** `steps` are those whose effect is unknown. */
  | { kind: 'interrupted'; steps: readonly string[] };

/** A request that runs in this process. */
interface Running {
  readonly end: Promise<void>;
  /** What the table says of its key: its connection may be long dead, and another instance have the answer. */
  readonly look: SharedQuestion<PeekResult>;
}

/** The state machine of a key: absent, claimed by a running request, recorded. Knows no HTTP. */
export class ClaimService {
  /** Keys whose handler runs in this process: duplicates share one look at the table, and are woken at its end. */
  private readonly running = new Map<string, Running>();

  /** The ends of all requests of this process, also of those that are about to be recorded or rolled back. */
  private readonly unsettled = new Set<Promise<void>>();

  private readonly recent = new RecentKeys(RECENT_KEYS);

  /** Looks at keys that were taken, which the retries of a storm share. Those that find no connection wait for one. */
  private readonly looks = new SharedQuestions<PeekResult | undefined>(() => !this.connections.areInUse);

  constructor(
    private readonly store: KeyStore,
    private readonly connections: Connections,
    private readonly leases: LeaseService,
  ) {}

  /**
   * Claims the key, or says why not. Under `inFlight: { waitMs }` it waits for a running request, without a
   * connection in hand.
   *
   * @throws IdempotencyStoreUnavailableException when the key cannot be claimed; the handler must not run then
   */
  async claim(request: IdempotentRequest): Promise<Outcome> {
    const name = nameOf(request);
    const { inFlight } = request.options;
    const deadline = performance.now() + (inFlight === 'reject' ? 0 : inFlight.waitMs);
    for (let pauseMs: number = IN_FLIGHT_POLL_MS.first; ; pauseMs = Math.min(pauseMs * 2, IN_FLIGHT_POLL_MS.longest)) {
      const running = this.running.get(name);
      const known = running === undefined ? this.outcomeOfRecent(name, request) : this.outcomeBeside(running, request);
      const outcome = (known && (await known)) ?? (await this.attempt(name, request));
      const leftMs = deadline - performance.now();
      if (outcome.kind !== 'in flight' || leftMs <= 0) {
        return outcome;
      }
      // A request of this process wakes its duplicates itself; for another's the table is looked at again.
      await (running === undefined
        ? delay(Math.min(leftMs, jittered(pauseMs)))
        : within(Math.min(leftMs, jittered(IN_FLIGHT_POLL_MS.longest)), running.end));
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
      if (found.kind === 'completed' && found.response.claimId === claim.request.claimId) {
        return 'recorded';
      }
      if (found.kind === 'completed' || found.kind === 'unfinished') {
        return outcomeOf(found, request);
      }
      if (found.kind === 'claimed') {
        // The lock was free and the row is not there: the transaction is over and was rolled back.
        throw new IdempotencyStoreUnavailableException('The connection was lost and the operation was rolled back.');
      }
      await delay(OUTCOME_LOOK_UPS.pauseMs); // the old session still holds the lock: it has not finished
    }
    throw new IdempotencyStoreUnavailableException('The connection was lost while the operation was committed.');
  }

  /** @param route for the log: "POST /orders" */
  withoutKey(options: RouteOptions, route: string): KeylessRequest {
    const tools = options.mode === 'lease' ? this.leases.stepsWithoutKey(options, route) : undefined;
    return new KeylessRequest(this.connections.transactions, tools);
  }

  /**
   * Waits for the requests that are running, each of which ends by its time limit at the latest; and for steps that outlive
   * them, for a bounded time.
   */
  async idle(): Promise<void> {
    await Promise.all(this.unsettled);
    await this.leases.idle();
  }

  /** What the key holds, for a request that has lost it to another one. */
  async outcomeOfOther(request: IdempotentRequest): Promise<Outcome> {
    const found = await this.look(request);
    return found.kind === 'completed' || found.kind === 'unfinished'
      ? outcomeOf(found, request)
      : { kind: 'in flight' };
  }

  /** A key that was taken a short while ago most likely still is: then no transaction is begun for it. */
  private outcomeOfRecent(name: string, request: IdempotentRequest): Promise<Outcome | undefined> | undefined {
    const sighting = this.recent.get(name);
    return sighting && this.lookAgain(name, request, sighting);
  }

  /** Nothing where it is not taken any more, as far as can be told without a claim. */
  private async lookAgain(name: string, request: IdempotentRequest, sighting: Sighting): Promise<Outcome | undefined> {
    const look = (): Promise<PeekResult | undefined> =>
      this.connections.run(
        (client) => (sighting === 'recorded' ? this.store.lookUp(client, request) : this.store.peek(client, request)),
        'cancel',
      );
    const found = await this.looks.ask(name, look).catch(cannotClaim);
    switch (found?.kind) {
      case 'completed':
        this.recent.set(name, 'recorded');
        return outcomeOf(found, request);
      case 'in flight':
        return found;
      default:
        this.recent.delete(name);
        return undefined;
    }
  }

  /**
   * What a duplicate of a request in this process gets; nothing where it may claim the key, for its holder has lost it.
   * Where all connections are in use, that the request runs here is answer enough.
   */
  private async outcomeBeside({ look }: Running, request: IdempotentRequest): Promise<Outcome | undefined> {
    const looking = look.ask(() => this.peek(request));
    let found = await within(IN_FLIGHT_LOOK_MS, looking);
    if (found === undefined) {
      if (this.connections.areInUse) {
        return { kind: 'in flight' };
      }
      found = await looking;
    }
    switch (found.kind) {
      case 'free':
        return undefined;
      case 'in flight':
        return found;
      default:
        return outcomeOf(found, request);
    }
  }

  private async attempt(name: string, request: IdempotentRequest): Promise<Outcome> {
    const outcome =
      request.options.mode === 'transaction'
        ? await this.attemptTransaction(name, request)
        : await this.leases.claim(request, () => this.started(name));
    if (outcome.kind === 'completed') {
      this.recent.set(name, 'recorded');
    } else if (outcome.kind === 'in flight' && request.options.mode === 'transaction') {
      this.recent.set(name, 'in flight');
    }
    return outcome;
  }

  private async attemptTransaction(name: string, request: IdempotentRequest): Promise<Outcome> {
    const { scope, key, fingerprint, fingerprintVersion, method, path, options } = request;
    const isolation = options.isolation ?? this.connections.transactions.defaultIsolation;
    const claimId = randomUUID();
    const { transaction, result } = await this.tryClaim({
      scope,
      key,
      claimId,
      transactionTimeoutMs: options.timeoutMs + TRANSACTION_TIMEOUT_SLACK_MS,
      isolation,
      savepoint: options.storeErrors !== undefined,
    });
    switch (result.kind) {
      case 'claimed': {
        const { ttlMs } = options;
        const claimed = { scope, key, fingerprint, fingerprintVersion, method, path, claimId, ttlMs };
        return { kind: 'claimed', claim: this.claimBy(transaction, claimed, this.started(name)) };
      }
      case 'completed':
      case 'unfinished':
        giveBack(transaction);
        return outcomeOf(result, request);
      case 'in flight':
        giveBack(transaction);
        return result;
    }
  }

  private peek(request: IdempotentRequest): Promise<PeekResult> {
    return this.connections.run((client) => this.store.peek(client, request), 'cancel').catch(cannotClaim);
  }

  private async look(request: IdempotentRequest): Promise<ClaimResult> {
    const { transaction, result } = await this.tryClaim({
      scope: request.scope,
      key: request.key,
      claimId: randomUUID(),
      transactionTimeoutMs: TRANSACTION_TIMEOUT_SLACK_MS,
      isolation: 'READ COMMITTED', // by an older snapshot a COMMIT that was waited for would not be seen
      savepoint: false,
    });
    giveBack(transaction);
    return result;
  }

  private async tryClaim(request: ClaimRequest): Promise<{ transaction: OwnedTransaction; result: ClaimResult }> {
    const { connection, result } = await this.connections
      .ask((client) => this.store.claim(client, request))
      .catch(cannotClaim);
    return { transaction: new OwnedTransaction(connection, this.store), result };
  }

  private claimBy(owned: OwnedTransaction, claimed: ClaimedRequest, end: ClaimEnd): Claim {
    const { transactions } = this.connections;
    const transaction = new AmbientTransaction(
      transactions,
      owned,
      settingsAtBegin(owned.connection.client, claimed.claimId).isolation,
      `${claimed.method} ${claimed.path}`,
    );
    return new TransactionClaim(claimed, transaction, this.store, end);
  }

  /** Has duplicates in this process wait for the end of the request. */
  private started(name: string): ClaimEnd {
    const end = deferred();
    const running = { end: end.promise, look: new SharedQuestion<PeekResult>() };
    this.running.set(name, running);
    this.unsettled.add(end.promise);
    return {
      begun: () => {
        if (this.running.get(name) === running) {
          this.running.delete(name);
        }
      },
      settled: (recorded) => {
        if (recorded) {
          this.recent.set(name, 'recorded');
        }
        this.unsettled.delete(end.promise);
        end.resolve();
      },
    };
  }
}

/** Ends a transaction that has only looked. The answer to the client does not wait for it. */
function giveBack(transaction: OwnedTransaction): void {
  void transaction.rollBack();
}

/** What a key that is taken means for a request. */
export function outcomeOf(found: FoundKey, request: IdempotentRequest): Outcome {
  const { fingerprint, fingerprintVersion } = found.kind === 'completed' ? found.response : found.claim;
  if (fingerprintVersion !== request.fingerprintVersion || !fingerprint.equals(request.fingerprint)) {
    return { kind: 'mismatch' };
  }
  if (found.kind === 'unfinished') {
    return outcomeOfUnfinished(found.claim, request.options);
  }
  const { status, headers, body, createdAt } = found.response;
  return body === null
    ? { kind: 'not kept', originalStatus: status, completedAt: createdAt }
    : { kind: 'completed', response: { status, headers, body } };
}

/** A claim by lease that could have been taken over, but was not: others were faster, or it must not be. */
function outcomeOfUnfinished({ state, attention }: UnfinishedClaim, options: IdempotentRequest['options']): Outcome {
  const isEffectUnknown = attention?.reason === 'effect-unknown';
  if (isEffectUnknown && state !== 'running') {
    return { kind: 'interrupted', steps: attention.steps };
  }
  const waitsForOperator =
    options.mode === 'transaction'
      ? state !== 'running' // begun when the route was in lease mode: a transaction cannot go on from steps
      : state === 'interrupted' && options.onInterrupted === 'fail';
  return waitsForOperator ? { kind: 'interrupted', steps: [] } : { kind: 'in flight' };
}

function nameOf({ scope, key }: { scope: string; key: string }): string {
  return JSON.stringify([scope, key]);
}

/** @throws IdempotencyStoreUnavailableException always */
export function cannotClaim(cause: unknown): never {
  throw cause instanceof IdempotencyStoreUnavailableException
    ? cause
    : new IdempotencyStoreUnavailableException('The idempotency key could not be claimed.', { cause });
}
