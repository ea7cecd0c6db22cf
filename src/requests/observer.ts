import { createHash } from 'node:crypto';
import { HttpException, Logger } from '@nestjs/common';
import type { Connections } from '../postgres/connections.js';
import type { ObservedKey, ObservedKeys, ObservedResponse } from '../postgres/statements/observed-keys.js';
import { IdempotencyKeyReusedException } from '../protocol/exceptions.js';
import type { RouteOptions } from '../protocol/options.js';
import type { IdempotentRequest } from '../protocol/request.js';
import { errorWithoutValues } from '../util/error-without-values.js';
import type { ObservedReport } from './observed-report.js';

/** A request in observe mode whose handler and response have both ended. */
export interface Observation {
  request: IdempotentRequest;
  options: RouteOptions;
  /** `PaymentsController.create` */
  route: string;
  /** Absent where nobody listens. */
  report: ObservedReport | undefined;
  response: ObservedResponse;
  /** Whether another mode would have recorded the response. */
  isOutcome: boolean;
  /** Whether another request with its key ran beside it in this process: of those, all but the first were told of. */
  ranBeside: boolean;
  /** By `performance.now()`. */
  startedAt: number;
  endedAt: number;
}

/**
 * Compares requests of routes in observe mode with what is known of their keys, and says what another mode would have
 * answered. Nothing that fails here reaches a request.
 */
export class Observer {
  private static readonly logger = new Logger('Idempotency');
  /** How many requests of a key run in this process, and whether it ever were several since there was none. */
  private readonly running = new Map<string, { count: number; ranBeside: boolean }>();
  /** The last of the key's requests that is being compared, which the next one waits for. */
  private readonly settling = new Map<string, Promise<void>>();

  constructor(
    private readonly keys: ObservedKeys,
    private readonly connections: Connections,
  ) {}

  /** The request's handler is about to run. */
  begin(request: IdempotentRequest, options: RouteOptions, route: string, report: ObservedReport | undefined): void {
    const name = nameOf(request);
    const others = this.running.get(name)?.count ?? 0;
    this.running.set(name, { count: others + 1, ranBeside: others > 0 });
    if (others > 0) {
      this.tellInFlight(request, options, route, report);
    }
  }

  /** The request runs no more. @returns whether another one with its key ran beside it */
  end(request: IdempotentRequest): boolean {
    const name = nameOf(request);
    const running = this.running.get(name)!;
    running.count--;
    if (running.count === 0) {
      this.running.delete(name);
    }
    return running.ranBeside;
  }

  /** Compares it, behind those with its key that ended before it. */
  settle(observation: Observation): void {
    const name = nameOf(observation.request);
    const before = this.settling.get(name);
    const settled = Promise.resolve(before)
      .then(() => this.compare(observation))
      .catch((error: unknown) => this.tellFailure(observation, error))
      .finally(() => {
        if (this.settling.get(name) === settled) {
          this.settling.delete(name);
        }
      });
    this.settling.set(name, settled);
  }

  /** Waits for what is being compared; each of its questions has a time limit. */
  async idle(): Promise<void> {
    await Promise.all(this.settling.values());
  }

  /** @param error what another mode would have answered the request with, before its handler */
  tellRefused(route: string, error: unknown, report: ObservedReport | undefined): void {
    report?.refused(error);
    const status = error instanceof HttpException ? error.getStatus() : 500;
    const why = error instanceof Error ? error.message : String(error);
    this.warn(route, undefined, `would have been answered ${status}: ${why}`);
  }

  private async compare(observation: Observation): Promise<void> {
    const { request, response, isOutcome, startedAt, endedAt, report } = observation;
    const ranMs = performance.now() - startedAt; // before the question: its way must not count
    let found = await this.keys.find(this.connections, request);
    if (found === undefined && isOutcome) {
      const endedMsAgo = performance.now() - endedAt;
      const added = await this.keys.add(this.connections, { request, response, endedMsAgo });
      found = added ? undefined : await this.keys.find(this.connections, request);
    }
    if (found !== undefined) {
      this.tell(observation, found, ranMs);
    }
    report?.end(isOutcome ? 'recorded' : 'rolled-back', request, { status: response.status }); // unless it was told otherwise
  }

  private tell(observation: Observation, found: ObservedKey, ranMs: number): void {
    const { request, options, route, response, ranBeside, report } = observation;
    const { status } = response;
    if (ranBeside) {
      return; // it was told, or is the one that the others were beside
    }
    if (found.response === undefined || (!found.isOwn && found.ageMs < ranMs)) {
      this.tellInFlight(request, options, route, report); // another process recorded it while this one ran
    } else if (!isSame(found, request)) {
      report?.end('mismatch', request, { status });
      const problem = new IdempotencyKeyReusedException();
      this.warn(route, request, `would have been answered ${problem.getStatus()}: ${problem.message}`);
    } else if (!found.bodyKept || found.response.bodyBytes > options.maxBodyBytes) {
      report?.end('not-kept', request, { status });
      this.warn(route, request, 'would have been answered 409: its response was too large to be kept (`maxBodyBytes`)');
    } else {
      const differs = differenceOf(found.response, response);
      report?.end('replayed', request, { status, isSame: differs === '' });
      const message = `would have been answered by a replay of ${found.response.status}, and its handler not have run`;
      Observer.logger.log(said(route, request, `${message}${differs}`));
    }
  }

  private tellInFlight(
    request: IdempotentRequest,
    { inFlight }: RouteOptions,
    route: string,
    report: ObservedReport | undefined,
  ): void {
    report?.end('in-flight', request);
    const answer = inFlight === 'reject' ? 'been answered 409' : `waited for up to ${inFlight.waitMs} ms`;
    this.warn(route, request, `would have ${answer}: a request with its key was in flight`);
  }

  private tellFailure({ route, request, report }: Observation, error: unknown): void {
    report?.end('store-unavailable', request);
    const { message } = errorWithoutValues(error) as Error;
    Observer.logger.warn(`observe: a request to ${route} could not be compared: ${message}`);
  }

  private warn(route: string, request: IdempotentRequest | undefined, what: string): void {
    Observer.logger.warn(said(route, request, what));
  }
}

/** The key by a part of its hash: lines of one key can be told from those of another, and nobody can use it. */
function said(route: string, request: IdempotentRequest | undefined, what: string): string {
  const key =
    request === undefined ? '' : ` with key #${createHash('sha256').update(nameOf(request)).digest('hex').slice(0, 8)}`;
  return `observe: a request to ${route}${key} ${what}`;
}

function differenceOf(recorded: ObservedResponse, now: ObservedResponse): string {
  if (recorded.status !== now.status) {
    return `; it has run, and was answered ${now.status}`;
  }
  return recorded.sha256 === now.sha256 ? '' : '; it has run, and was answered by another body';
}

function isSame(found: ObservedKey, { fingerprint, fingerprintVersion }: IdempotentRequest): boolean {
  return found.fingerprintVersion === fingerprintVersion && found.fingerprint.equals(fingerprint);
}

function nameOf({ scope, key }: { scope: string; key: string }): string {
  return JSON.stringify([scope, key]);
}
