import { type Failpoint, FAILPOINTS, LEASE_FAILPOINTS } from '../../src/util/failpoint.js';
import { FAULT_NAMES, type FaultName } from './proxy.js';

/** How often each fault has struck. */
export class Tally {
  readonly killsAt: Record<Failpoint, number> = zeroes([...FAILPOINTS, ...LEASE_FAILPOINTS]);
  readonly proxyFaults: Record<FaultName, number> = zeroes(FAULT_NAMES);
  killsAnywhere = 0;
  postgresKills = 0;
  backendKills = 0;
  terminatedBackends = 0;
  backDatedKeys = 0;
  clientAborts = 0;
  requests = 0;
  keys = 0;
  purgedKeys = 0;
  /** Instances that were frozen for longer than a lease. */
  pauses = 0;
  backDatedLeases = 0;
  renewals = 0;
  takeovers = 0;
  /** Operations that went on after an attempt that had failed. */
  resumptions = 0;
  decisions = 0;
  providerCalls = 0;
  providerEffects = 0;
  /** Steps of the provider's that were needed: one for each key and step. */
  providerSteps = 0;
  /** The same where the provider knows no keys. */
  unkeyedEffects = 0;
  unkeyedSteps = 0;

  get kills(): number {
    return this.killsAnywhere + sum(this.killsAt);
  }
}

function zeroes<K extends string>(names: readonly K[]): Record<K, number> {
  return Object.fromEntries(names.map((name) => [name, 0])) as Record<K, number>;
}

function sum(counts: Record<string, number>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}
