import type { Client } from 'pg';
import { type Failpoint, FAILPOINTS, LEASE_FAILPOINTS } from '../../src/util/failpoint.js';
import { CommittedState } from './committed-state.js';
import type { KeyHistory } from './history.js';
import { forgetLeasesAllBut } from './lease/lease-schema.js';
import { judgeLeases } from './lease/lease-oracle.js';
import { type LeaseEvent, LeaseState } from './lease/lease-state.js';
import type { ProviderUnderFaults } from './lease/provider-under-faults.js';
import { judge, type Violation } from './oracle.js';
import { LEASE_LIMITS, LEASE_ROUTES, type RouteName, ROUTES } from './routes.js';
import { forgetAllBut } from './schema.js';
import type { Tally } from './tally.js';
import type { Phase } from './wire.js';

/** What a round is about: the traffic, where it can be struck, and how it is judged. */
export interface Scenario {
  name: ScenarioName;
  routes: readonly RouteName[];
  habits: Habits;
  /** Those that its requests pass. */
  failpoints: readonly Failpoint[];
  /** What its messages to PostgreSQL are for. */
  phases: readonly Phase[];
  /** Routes whose keys are not asked for again in later rounds: their books must balance, or they expire. */
  passing: readonly RouteName[];
  /** A violation, planted for an operation of `route`, that the oracle must see. */
  canary: { route: RouteName; sql: string };
  /** @param old keys of earlier rounds, whose faults were counted then */
  judge(
    client: Client,
    histories: readonly KeyHistory[],
    old: readonly KeyHistory[],
    tally?: Tally,
  ): Promise<Violation[]>;
  forgetAllBut(client: Client, keys: string[]): Promise<void>;
}

export type ScenarioName = 'transaction' | 'lease';

/** How clients behave beyond waiting for an answer. */
export interface Habits {
  /** The patience of a client that goes away. */
  abortWithinMs: number;
  goesAway: number;
  /** How far behind the first request its duplicates come. */
  duplicateWithinMs: number;
}

/** The library's messages have failpoints of their own where a transaction is held, or a lease. */
const TRANSACTION_ONLY: readonly Failpoint[] = ['record: sent', 'outcome: looking'];

export const transactionScenario: Scenario = {
  name: 'transaction',
  routes: Object.keys(ROUTES) as RouteName[],
  habits: { abortWithinMs: 30, goesAway: 0.1, duplicateWithinMs: 25 },
  failpoints: FAILPOINTS,
  phases: ['claim', 'handler', 'record', 'rollback'],
  passing: ['serializable', 'expiring'],
  canary: {
    route: 'plain',
    sql: 'insert into effects (nonce, key, amount) values (gen_random_uuid(), $1, 1)',
  },
  async judge(client, histories, old, tally) {
    const state = await CommittedState.read(client);
    if (tally !== undefined) {
      tally.purgedKeys += state.purges;
    }
    return judge([...histories, ...old], state);
  },
  forgetAllBut,
};

export function leaseScenario(provider: ProviderUnderFaults): Scenario {
  return {
    name: 'lease',
    routes: Object.keys(LEASE_ROUTES) as RouteName[],
    // Clients that go away, and duplicates, come to see other instances take over.
    habits: { abortWithinMs: 3 * LEASE_LIMITS.leaseMs, goesAway: 0.3, duplicateWithinMs: 3 * LEASE_LIMITS.leaseMs },
    failpoints: [...FAILPOINTS.filter((name) => !TRANSACTION_ONLY.includes(name)), ...LEASE_FAILPOINTS],
    phases: ['claim', 'renewal', 'step', 'record', 'rollback'],
    passing: ['isolated', 'lapsing'],
    canary: {
      route: 'transfer',
      sql: 'insert into bookings (nonce, key, amount) values (gen_random_uuid(), $1, 1)',
    },
    async judge(client, histories, old, tally) {
      const state = await LeaseState.read(client);
      if (tally !== undefined) {
        const events = histories.flatMap(({ key }) => state.eventsOf(key));
        const count = (name: LeaseEvent['event']): number => events.filter(({ event }) => event === name).length;
        tally.purgedKeys += count('purged');
        tally.renewals += count('renewed');
        tally.takeovers += count('taken over');
        tally.resumptions += count('resumed');
      }
      return judgeLeases([...histories, ...old], state, provider);
    },
    forgetAllBut: forgetLeasesAllBut,
  };
}
