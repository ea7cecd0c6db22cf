import type { RouteOptions } from './options.js';
import type { RecordableResponse, ReplayableResponse } from './response.js';
import type { StepWatch } from './step-call.js';
import type { KeyIdentity } from './stored-key.js';

/** A request, as far as idempotency is concerned. */
export interface IdempotentRequest extends KeyIdentity {
  fingerprint: Buffer;
  fingerprintVersion: number;
  /** Where there is a `fingerprintSecret`: what becomes of a fingerprint by it. */
  keyed?: ((plain: Buffer) => Buffer) | undefined;
  method: string;
  path: string;
  /** `traceparent`, where requests are traced. */
  traceContext?: string | undefined;
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

/** Not one object of all: to spread several together is slow in V8. */
export interface NewRecord {
  request: IdempotentRequest;
  /** Names the attempt. */
  claimId: string;
  response: RecordableResponse;
}

/** A request whose route does not require a key. */
export interface RequestWithoutKey {
  readonly key?: undefined;
  /** @throws what the route's option has thrown */
  readonly scope: () => string;
  readonly method: string;
  readonly path: string;
}
