import { randomUUID } from 'node:crypto';
import { AmbientTransaction } from '../../postgres/ambient/ambient-transaction.js';
import type { Connections } from '../../postgres/connections.js';
import { OwnedTransaction } from '../../postgres/owned-transaction.js';
import { settingsAtBegin } from '../../postgres/session-settings.js';
import type { ClaimResult, KeyStore, PeekResult } from '../../postgres/statements/key-store.js';
import { OUTCOME_LOOK_UPS, TRANSACTION_TIMEOUT_SLACK_MS } from '../../protocol/constants.js';
import { IdempotencyStoreUnavailableException } from '../../protocol/exceptions.js';
import type { IdempotentRequest } from '../../protocol/request.js';
import { failpoint } from '../../util/failpoint.js';
import { delay } from '../../util/timing.js';
import type { Claim, ClaimEnd, Recorded } from '../claim.js';
import { cannotClaim, meaningOf, type Mode, type Outcome } from '../outcome.js';
import { TransactionClaim } from './transaction-claim.js';

/** Claims by transaction: the key is taken by a lock of the transaction that all of the handler's writes join. */
export class TransactionClaims implements Mode {
  constructor(
    private readonly store: KeyStore,
    private readonly connections: Connections,
  ) {}

  async claim(request: IdempotentRequest, started: () => ClaimEnd): Promise<Outcome> {
    const { options } = request;
    const claimId = randomUUID();
    const attempt = {
      request,
      claimId,
      transactionTimeoutMs: options.timeoutMs + TRANSACTION_TIMEOUT_SLACK_MS,
      isolation: options.isolation ?? this.connections.transactions.defaultIsolation,
      savepoint: options.storeErrors !== undefined,
    };
    const answer = await this.connections.ask((client) => this.store.claim(client, attempt)).catch(cannotClaim);
    const transaction = new OwnedTransaction(answer.connection, this.store);
    switch (answer.result.kind) {
      case 'claimed':
        return { kind: 'claimed', claim: this.claimBy(transaction, request, claimId, started()) };
      case 'completed':
      case 'unfinished':
        giveBack(transaction);
        return meaningOf(answer.result, request);
      case 'in flight':
        giveBack(transaction);
        return answer.result;
    }
  }

  /** Looks at the key and at its lock, and takes neither. */
  peek(request: IdempotentRequest): Promise<PeekResult> {
    return this.connections.run((client) => this.store.peek(client, request), 'cancel').catch(cannotClaim);
  }

  /**
   * What became of a claim, of whatever mode, whose COMMIT was never answered: recorded when it took place, otherwise
   * what its key holds now.
   *
   * @throws IdempotencyStoreUnavailableException when it did not take place, or that cannot be told: a retry will see
   */
  async outcomeOfLostCommit(claim: Claim, request: IdempotentRequest): Promise<Recorded | Outcome> {
    for (let attempt = 1; attempt <= OUTCOME_LOOK_UPS.attempts; attempt++) {
      failpoint('outcome: looking');
      const found = await this.look(request);
      if (found.kind === 'completed' && found.response.claimId === claim.claimId) {
        return { kind: 'recorded', expiresAt: found.response.expiresAt };
      }
      if (found.kind === 'completed' || found.kind === 'unfinished') {
        return meaningOf(found, request);
      }
      if (found.kind === 'claimed') {
        // The lock was free and the row is not there: the transaction is over and was rolled back.
        throw new IdempotencyStoreUnavailableException('The connection was lost and the operation was rolled back.');
      }
      await delay(OUTCOME_LOOK_UPS.pauseMs); // the old session still holds the lock: it has not finished
    }
    throw new IdempotencyStoreUnavailableException('The connection was lost while the operation was committed.');
  }

  /** What the key holds, for a request that has lost it to another one. */
  async outcomeOfWinner(request: IdempotentRequest): Promise<Outcome> {
    const found = await this.look(request);
    return found.kind === 'completed' || found.kind === 'unfinished'
      ? meaningOf(found, request)
      : { kind: 'in flight' };
  }

  private async look(request: IdempotentRequest): Promise<ClaimResult> {
    const attempt = {
      request,
      claimId: randomUUID(),
      transactionTimeoutMs: TRANSACTION_TIMEOUT_SLACK_MS,
      isolation: 'READ COMMITTED', // by an older snapshot a COMMIT that was waited for would not be seen
      savepoint: false,
    } as const;
    const { connection, result } = await this.connections
      .ask((client) => this.store.claim(client, attempt))
      .catch(cannotClaim);
    giveBack(new OwnedTransaction(connection, this.store));
    return result;
  }

  private claimBy(owned: OwnedTransaction, request: IdempotentRequest, claimId: string, end: ClaimEnd): Claim {
    const transaction = new AmbientTransaction(
      this.connections.transactions,
      owned,
      settingsAtBegin(owned.connection.client, claimId).isolation,
      `${request.method} ${request.path}`,
    );
    return new TransactionClaim(request, claimId, transaction, this.store, end);
  }
}

/** Ends a transaction that has only looked. The answer to the client does not wait for it. */
function giveBack(transaction: OwnedTransaction): void {
  void transaction.rollBack();
}
