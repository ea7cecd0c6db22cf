import type { RouteOptions } from './options.js';
import type { RecordableResponse, ReplayableResponse } from './response.js';
import type { StepWatch } from './step-call.js';
import type { KeyIdentity } from './stored-key.js';

/** Everything of a record that is known before the handler runs. */
export interface ClaimedRequest extends KeyIdentity {
  /** Names this attempt. */
  claimId: string;
  fingerprint: Buffer;
  fingerprintVersion: number;
  method: string;
  path: string;
  ttlMs: number;
  /** `traceparent`, where requests are traced. */
  traceContext?: string | undefined;
}

/** Not one object of all: to spread two together is slow in V8. */
export interface NewRecord {
  request: ClaimedRequest;
  response: RecordableResponse;
}

/** A request, as far as idempotency is concerned. */
export interface IdempotentRequest extends Omit<ClaimedRequest, 'claimId' | 'ttlMs'> {
  /** Where there is a `fingerprintSecret`: what becomes of a fingerprint by it. */
  keyed?: ((plain: Buffer) => Buffer) | undefined;
  /** What its key was found to hold while it was on its way here. */
  found?: ReplayableResponse | undefined;
  /** Absent where nobody listens. */
  onStep?: StepWatch | undefined;
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
