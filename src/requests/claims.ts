import type { Claim, Recorded } from '../modes/claim.js';
import type { LeaseService } from '../modes/lease/lease.service.js';
import type { Mode, Outcome } from '../modes/outcome.js';
import { TransactionClaims } from '../modes/transaction/transaction-claims.js';
import type { Connections } from '../postgres/connections.js';
import type { KeyStore } from '../postgres/statements/key-store.js';
import { IN_FLIGHT_POLL_MS } from '../protocol/constants.js';
import type { HoldingMode, RouteOptions } from '../protocol/options.js';
import type { IdempotentRequest } from '../protocol/request.js';
import type { ReplayableResponse } from '../protocol/response.js';
import { delay, jittered, within } from '../util/timing.js';
import { KeyLooks } from './key-looks.js';
import { KeylessRequest } from './keyless-request.js';
import { type Running, RunningRequests } from './running-requests.js';

/** What becomes of a key that is asked for: claimed, replayed, refused, or waited for. Knows no HTTP. */
export class Claims {
  private readonly transactions: TransactionClaims;
  private readonly modes: Record<HoldingMode, Mode>;
  private readonly looks: KeyLooks;
  private readonly running = new RunningRequests((name) => this.looks.saw(name, 'recorded'));

  constructor(
    store: KeyStore,
    private readonly connections: Connections,
    private readonly leases: LeaseService,
  ) {
    this.transactions = new TransactionClaims(store, connections);
    this.modes = { transaction: this.transactions, lease: leases };
    this.looks = new KeyLooks(store, this.transactions, connections);
  }

  /**
   * Claims the key, or says why not. Under `inFlight: { waitMs }` it waits for a running request, without a
   * connection in hand.
   *
   * @throws IdempotencyStoreUnavailableException when the key cannot be claimed; the handler must not run then
   */
  async claim(request: IdempotentRequest): Promise<Outcome> {
    if (request.found !== undefined) {
      return { kind: 'completed', response: request.found };
    }
    const name = nameOf(request);
    const { inFlight } = request.options;
    const mode = request.options.mode as HoldingMode; // a route in observe mode claims nothing
    const deadline = performance.now() + (inFlight === 'reject' ? 0 : inFlight.waitMs);
    for (let pauseMs: number = IN_FLIGHT_POLL_MS.first; ; pauseMs = Math.min(pauseMs * 2, IN_FLIGHT_POLL_MS.longest)) {
      const running = this.running.get(name);
      const known = this.looks.at(name, running, request);
      let outcome = known && (await known);
      if (outcome === undefined) {
        outcome = await this.modes[mode].claim(request, () => this.running.start(name));
        this.looks.met(name, outcome, mode);
      }
      const leftMs = deadline - performance.now();
      if (outcome.kind !== 'in flight' || leftMs <= 0) {
        return outcome;
      }
      await endOf(running, leftMs, pauseMs);
    }
  }

  /**
   * What the request would be answered with, were it here already; nothing where it would run, wait or be refused. Asks the
   * table at most once, and not at all while its key is held in this process.
   *
   * @throws IdempotencyStoreUnavailableException when the table does not answer
   */
  async replayOf(request: IdempotentRequest): Promise<ReplayableResponse | undefined> {
    const name = nameOf(request);
    const outcome = this.running.get(name) === undefined ? await this.looks.recorded(name, request) : undefined;
    return outcome?.kind === 'completed' ? outcome.response : undefined;
  }

  /** See {@link TransactionClaims.outcomeOfLostCommit}. */
  outcomeOfLostCommit(claim: Claim, request: IdempotentRequest): Promise<Recorded | Outcome> {
    return this.transactions.outcomeOfLostCommit(claim, request);
  }

  /** See {@link TransactionClaims.outcomeOfWinner}. */
  outcomeOfWinner(request: IdempotentRequest): Promise<Outcome> {
    return this.transactions.outcomeOfWinner(request);
  }

  /** Requests that this process carries out. */
  get inFlight(): { count: number; oldestMs: number } {
    const { count, oldestMs } = this.running;
    return { count, oldestMs };
  }

  /** @param route for the log: "POST /orders" */
  withoutKey(options: RouteOptions, route: string): KeylessRequest {
    const tools = options.mode === 'transaction' ? undefined : this.leases.stepsWithoutKey(options, route);
    return new KeylessRequest(this.connections.transactions, tools);
  }

  /**
   * Waits for the requests that are running, each of which ends by its time limit at the latest; and for steps that outlive
   * them, for a bounded time.
   */
  async idle(): Promise<void> {
    await this.running.idle();
    await this.leases.idle();
  }
}

/** A request of this process wakes its duplicates itself; for another's the table is looked at again. */
async function endOf(running: Running | undefined, leftMs: number, pauseMs: number): Promise<void> {
  await (running === undefined
    ? delay(Math.min(leftMs, jittered(pauseMs)))
    : within(Math.min(leftMs, jittered(IN_FLIGHT_POLL_MS.longest)), running.end));
}

function nameOf({ scope, key }: { scope: string; key: string }): string {
  return JSON.stringify([scope, key]);
}
