import type { ExecutionContext } from '@nestjs/common';
import type { StoredKeys } from '../postgres/statements/stored-keys.js';
import type { Encryption } from '../protocol/encryption.js';
import type { RouteOptions } from '../protocol/options.js';
import type { Claims } from './claims.js';
import type { RunReport } from './run-report.js';
import type { ScopeLimits } from './scope-limits.js';

/** What one run of a request is given by the module and by its route. */
export interface RunSurroundings {
  readonly claims: Claims;
  readonly keys: StoredKeys;
  readonly options: RouteOptions;
  readonly problemBaseUrl: string;
  /** Absent where nobody listens. */
  readonly report: RunReport | undefined;
  readonly encryption: Encryption;
  readonly scopeLimits: ScopeLimits;
  readonly context: ExecutionContext;
  /** `traceparent` of the request. */
  readonly traceContext: string | undefined;
}
