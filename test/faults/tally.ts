import { type Failpoint, FAILPOINTS } from '../../src/failpoint.js';
import { FAULT_NAMES, type FaultName } from './proxy.js';

/** How often each fault has struck. */
export class Tally {
  readonly killsAt = Object.fromEntries(FAILPOINTS.map((name) => [name, 0])) as Record<Failpoint, number>;
  readonly proxyFaults = Object.fromEntries(FAULT_NAMES.map((name) => [name, 0])) as Record<FaultName, number>;
  killsAnywhere = 0;
  postgresKills = 0;
  backendKills = 0;
  terminatedBackends = 0;
  backDatedKeys = 0;
  clientAborts = 0;
  requests = 0;
  keys = 0;
  purgedKeys = 0;

  get kills(): number {
    return this.killsAnywhere + sum(this.killsAt);
  }
}

function sum(counts: Record<string, number>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}
