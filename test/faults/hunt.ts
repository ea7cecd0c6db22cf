import type { Mutant } from './mutants.js';
import { runSuite } from './suite.js';

/** Longer than any mutant has survived on two cores. */
const HUNT_SECONDS = 60;

export interface Catch {
  mutant: string;
  caught: boolean;
  /** What gave it away, and what it did besides. */
  rules: string[];
  seconds: number;
  requests: number;
}

/** Runs the suite against mutants, one after another: a suite that cannot fail proves nothing. */
export async function huntMutants(
  mutants: readonly Mutant[],
  seed: string,
  log: (line: string) => void,
): Promise<Catch[]> {
  const catches: Catch[] = [];
  for (const mutant of mutants) {
    const result = await hunt(mutant, seed);
    catches.push(result);
    log(
      `${result.caught ? 'caught  ' : 'SURVIVED'} ${mutant.name}: ${result.rules.join(', ') || 'nothing seen'} (${result.seconds} s, ${result.requests} requests)`,
    );
  }
  return catches;
}

async function hunt(mutant: Mutant, seed: string): Promise<Catch> {
  const { violations, seconds, tally } = await runSuite({
    seed,
    scenarios: [mutant.scenario ?? 'transaction'],
    seconds: HUNT_SECONDS,
    roundSeconds: 6,
    clients: 24,
    instances: { direct: 2, proxied: 2 },
    // More than can be reached: it ends with the first round that shows a violation.
    goals: {
      requests: Infinity,
      kills: 0,
      killsAtEachFailpoint: 0,
      postgresKills: mutant.faults?.postgres === true ? 12 : 0,
      proxyFaultsOfEachKind: 0,
    },
    faults: mutant.faults ?? {},
    passages: 12,
    untilViolation: true,
    partitioned: mutant.partitioned ?? false,
    mutant,
    log: () => undefined,
  });
  const rules = [...new Set(violations.map(({ rule }) => rule))];
  return {
    mutant: mutant.name,
    caught: rules.some((rule) => mutant.expected.includes(rule)),
    rules,
    seconds,
    requests: tally.requests,
  };
}
