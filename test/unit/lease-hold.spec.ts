import { describe, expect, it } from '@jest/globals';
import { IdempotencyStoreUnavailableException } from '../../src/index.js';
import { Encryption } from '../../src/protocol/encryption.js';
import { LeaseHold } from '../../src/modes/lease/lease-hold.js';
import { now } from '../../src/modes/lease/moment.js';
import type { LeaseLine } from '../../src/modes/lease/lease-line.js';
import type { LeaseStore } from '../../src/postgres/statements/lease-store.js';
import { waitFor } from '../support/wait-for.js';

describe('a lease whose renewals do not get through', () => {
  it('says so before a step, also when the handler was told to stop already', async () => {
    const broken = new Error('read ECONNRESET');
    const line = { ask: () => Promise.reject(broken) } as unknown as LeaseLine;
    const holder = { scope: '', key: 'k', claimId: '' };
    const options = { leaseMs: 30, ttlMs: 1_000 };
    const hold = new LeaseHold(holder, options, {} as LeaseStore, line, new Encryption(undefined), now());
    await waitFor(() => hold.signal.aborted, { what: 'the handler to be told' });
    const failure: unknown = await hold.ensure().catch((error: unknown) => error);
    await hold.stop();
    expect(failure).toBeInstanceOf(IdempotencyStoreUnavailableException);
    expect((failure as Error).cause).toBe(broken);
  });
});
