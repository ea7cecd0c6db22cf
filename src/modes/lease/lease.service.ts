import { randomUUID } from 'node:crypto';
import type { ClaimEnd } from '../claim.js';
import { cannotClaim, meaningOf, type Mode, type Outcome } from '../outcome.js';
import type { IdempotentRequest } from '../../protocol/request.js';
import type { Connections } from '../../postgres/connections.js';
import { failpoint } from '../../util/failpoint.js';
import { SHUTDOWN_PATIENCE_MS } from '../../protocol/constants.js';
import type { Encryption } from '../../protocol/encryption.js';
import { IdempotencyStoreUnavailableException } from '../../protocol/exceptions.js';
import type { FinishedStep } from '../../protocol/step.js';
import type { Holder } from '../../postgres/statements/lease-statements.js';
import { KeyInFlightError } from '../../postgres/statements/store-errors.js';
import type { LeaseResult } from '../../postgres/statements/lease-claim.js';
import type { LeaseStore } from '../../postgres/statements/lease-store.js';
import { isDefiniteFailure, SQLSTATE, sqlStateOf } from '../../postgres/sqlstate.js';
import type { KeyIdentity } from '../../protocol/stored-key.js';
import type { StatementPreparation } from '../../postgres/statement-preparation.js';
import { within } from '../../util/timing.js';
import { DurableSteps, type StepRules } from './durable-steps.js';
import { KeylessHold } from './keyless-hold.js';
import { LeaseHold } from './lease-hold.js';
import { now } from './moment.js';
import { LeaseLine } from './lease-line.js';
import { openSteps } from './sealed-steps.js';
import { LeasedClaim } from './leased-claim.js';

/** Claims by lease: the key is taken by a committed row, which holds nothing but itself. */
export class LeaseService implements Mode {
  private readonly line: LeaseLine;
  /** Steps that run although their requests were given up. */
  private readonly leftRunning = new Set<Promise<void>>();
  private idling: Promise<unknown> | undefined;

  constructor(
    private readonly store: LeaseStore,
    private readonly connections: Connections,
    preparation: StatementPreparation,
    private readonly encryption: Encryption,
  ) {
    this.line = new LeaseLine(connections, preparation);
  }

  /** Waits for steps that outlive their requests, for as long as a shutdown may take. */
  async idle(): Promise<void> {
    this.idling ??= within(SHUTDOWN_PATIENCE_MS, Promise.all(this.leftRunning));
    await this.idling;
  }

  /** Gives the connection of its own back. */
  async close(): Promise<void> {
    await this.line.close();
  }

  async claim(request: IdempotentRequest, started: () => ClaimEnd): Promise<Outcome> {
    const { scope, key, options } = request;
    const holder = { scope, key, claimId: randomUUID() };
    const claimedAt = now();
    const result = await this.send(request, holder.claimId);
    if (result.kind !== 'claimed') {
      return result.kind === 'in flight' ? result : meaningOf(result, request);
    }
    failpoint('lease: claimed');
    const finished = await this.openSteps(holder, options.ttlMs, result.steps);
    this.line.open();
    const hold = new LeaseHold(holder, options, this.store, this.line, this.encryption, claimedAt);
    const route = `${request.method} ${request.path}`;
    // Said by name also where it is the server's own: a step has to know beforehand.
    const isolation = options.isolation ?? this.connections.transactions.defaultIsolation ?? result.defaultIsolation;
    const rules = { ...options, isolation };
    const steps = new DurableSteps(finished, result.attempt, hold, this.store, rules, route, request.onStep);
    return {
      kind: 'claimed',
      claim: new LeasedClaim(request, result, hold, steps, this.store, started(), (left) => this.leave(left)),
    };
  }

  /** Steps for a request without a key: they run as with one, and are not remembered. */
  stepsWithoutKey(options: StepRules, route: string): DurableSteps {
    return new DurableSteps([], 1, new KeylessHold(this.connections), this.store, options, route);
  }

  /** What cannot be read is left for an instance that can, at once. */
  private async openSteps(holder: Holder, ttlMs: number, steps: FinishedStep[]): Promise<FinishedStep[]> {
    try {
      return openSteps(this.encryption, holder, steps);
    } catch (error) {
      await this.connections.run((client) => this.store.release(client, holder, ttlMs)).catch(() => undefined); // then the lease runs out by itself
      throw error;
    }
  }

  private leave(running: Promise<void>): void {
    this.leftRunning.add(running);
    void running.finally(() => this.leftRunning.delete(running));
  }

  /** A second time when the first was lost on its way: the lease may be taken already, by this very request. */
  private async send(request: IdempotentRequest, claimId: string): Promise<LeaseResult> {
    const attempt = { request, claimId };
    const ask = (): Promise<LeaseResult> => this.connections.run((client) => this.store.claim(client, attempt));
    return ask()
      .catch((error: unknown) => {
        if (
          error instanceof IdempotencyStoreUnavailableException ||
          error instanceof KeyInFlightError ||
          isDefiniteFailure(error)
        ) {
          throw error;
        }
        return ask();
      })
      .catch((error: unknown) => this.recorded(request, error))
      .catch(cannotClaim);
  }

  /** A server that takes no writes refuses a claim before it looks; what is recorded can be replayed all the same. */
  private async recorded(request: KeyIdentity, refusal: unknown): Promise<LeaseResult> {
    if (refusal instanceof KeyInFlightError) {
      return { kind: 'in flight' };
    }
    const found =
      sqlStateOf(refusal) === SQLSTATE.readOnlySqlTransaction
        ? await this.connections.run((client) => this.store.lookUp(client, request), 'cancel')
        : undefined;
    if (found?.kind !== 'completed') {
      throw refusal;
    }
    return found;
  }
}
