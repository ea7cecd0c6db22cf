import { randomUUID } from 'node:crypto';
import type { ClaimAttempt } from '../../src/postgres/statements/key-store.js';
import type { LeaseAttempt } from '../../src/postgres/statements/lease-claim.js';
import type { Holder } from '../../src/postgres/statements/lease-statements.js';
import type { NewRecord } from '../../src/protocol/request.js';

/** An attempt at a request, as tests of the stores name it: on one level. */
export interface TestAttempt extends Holder {
  fingerprint: Buffer;
  fingerprintVersion: number;
  method: string;
  path: string;
  ttlMs: number;
  leaseMs: number;
  /** Whether it may take over from a holder whose lease has expired. */
  resumes: boolean;
}

export function testAttempt(key: string, overrides: Partial<TestAttempt> = {}): TestAttempt {
  return {
    scope: '',
    key,
    claimId: randomUUID(),
    fingerprint: Buffer.alloc(32, 7),
    fingerprintVersion: 1,
    method: 'POST',
    path: '/payments',
    ttlMs: 60_000,
    leaseMs: 30_000,
    resumes: true,
    ...overrides,
  };
}

/** The same as the stores have it: what is claimed, in either mode, and what a record is of. */
export function storedAs(attempt: TestAttempt): ClaimAttempt & LeaseAttempt & Omit<NewRecord, 'response'> {
  const { claimId, ttlMs, leaseMs, resumes, ...request } = attempt;
  const options = {
    mode: 'lease',
    ttlMs,
    leaseMs,
    onInterrupted: resumes ? 'resume' : 'fail',
    inFlight: 'reject',
    timeoutMs: 30_000,
    retries: 0,
    stepTimeoutMs: 30_000,
    maxStepsBytes: 65_536,
    isolation: undefined,
    storeErrors: undefined,
  } as const;
  return {
    request: { ...request, options },
    claimId,
    transactionTimeoutMs: 60_000,
    isolation: undefined,
    savepoint: false,
  };
}
