import { cannotClaim, meaningOf, type Outcome } from '../modes/outcome.js';
import type { TransactionClaims } from '../modes/transaction/transaction-claims.js';
import type { Connections } from '../postgres/connections.js';
import type { KeyStore, PeekResult } from '../postgres/statements/key-store.js';
import { IN_FLIGHT_LOOK_MS, RECENT_KEYS } from '../protocol/constants.js';
import type { HoldingMode } from '../protocol/options.js';
import type { IdempotentRequest } from '../protocol/request.js';
import { RecentKeys, type Sighting } from '../util/recent-keys.js';
import { SharedQuestions } from '../util/shared-question.js';
import { within } from '../util/timing.js';
import type { Running } from './running-requests.js';

/**
 * What can be told of a key without claiming it. In a storm of retries nearly all find their answer here, at the price
 * of a look at the table that they share, and no transaction is begun for them (docs/performance.md has the figures).
 */
export class KeyLooks {
  private readonly recent = new RecentKeys(RECENT_KEYS);

  /** Looks at keys that were taken, which the retries of a storm share. Those that find no connection wait for one. */
  private readonly looks = new SharedQuestions<PeekResult | undefined>(() => !this.connections.areInUse);

  constructor(
    private readonly store: KeyStore,
    private readonly claims: TransactionClaims,
    private readonly connections: Connections,
  ) {}

  /** A hint which way to look first, the next time that the key is asked for. */
  saw(name: string, sighting: Sighting): void {
    this.recent.set(name, sighting);
  }

  /** What a claim has met. In lease mode the next claim is itself no more than a look. */
  met(name: string, { kind }: Outcome, mode: HoldingMode): void {
    if (kind === 'completed') {
      this.saw(name, 'recorded');
    } else if (kind === 'in flight' && mode === 'transaction') {
      this.saw(name, 'in flight');
    }
  }

  /**
   * Nothing where the key may be claimed, as far as is known.
   *
   * @param running the request that holds the key in this process
   * @throws IdempotencyStoreUnavailableException when the table does not answer
   */
  at(name: string, running: Running | undefined, request: IdempotentRequest): Promise<Outcome | undefined> | undefined {
    if (running !== undefined) {
      return this.beside(running, request);
    }
    // A key that was taken a short while ago most likely still is: then no transaction is begun for it.
    const sighting = this.recent.get(name);
    return sighting && this.again(name, request, sighting);
  }

  /**
   * What is recorded; nothing where that is nothing.
   *
   * @throws IdempotencyStoreUnavailableException when the table does not answer
   */
  async recorded(name: string, request: IdempotentRequest): Promise<Outcome | undefined> {
    const found = await this.looks.ask(name, () => this.look(request, 'recorded')).catch(cannotClaim);
    if (found?.kind !== 'completed') {
      return undefined; // one that was asked for its lock may be free, or in flight
    }
    this.recent.set(name, 'recorded');
    return meaningOf(found, request);
  }

  private look(request: IdempotentRequest, sighting: Sighting): Promise<PeekResult | undefined> {
    return this.connections.run(
      (client) => (sighting === 'recorded' ? this.store.lookUp(client, request) : this.store.peek(client, request)),
      'cancel',
    );
  }

  private async again(name: string, request: IdempotentRequest, sighting: Sighting): Promise<Outcome | undefined> {
    const found = await this.looks.ask(name, () => this.look(request, sighting)).catch(cannotClaim);
    switch (found?.kind) {
      case 'completed':
        this.recent.set(name, 'recorded');
        return meaningOf(found, request);
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
  private async beside({ look }: Running, request: IdempotentRequest): Promise<Outcome | undefined> {
    const looking = look.ask(() => this.claims.peek(request));
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
        return meaningOf(found, request);
    }
  }
}
