import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Client } from 'pg';
import { within } from '../../src/util/timing.js';
import { waitFor } from '../support/wait-for.js';
import { buildApplication } from './build/bundle.js';
import { openTransactions } from './committed-state.js';
import { Fleet } from './fleet.js';
import { type KeyHistory, writeHistory } from './history.js';
import { ProviderUnderFaults } from './lease/provider-under-faults.js';
import type { Faults, Mutant } from './mutants.js';
import { Nemesis } from './nemesis.js';
import type { Violation } from './oracle.js';
import { PostgresUnderFaults } from './postgres.js';
import { FAULT_NAMES, FaultProxy } from './proxy.js';
import { Random } from './random.js';
import { leaseScenario, type Scenario, type ScenarioName, transactionScenario } from './scenario.js';
import { createSchema } from './schema.js';
import { Tally } from './tally.js';
import type { Phase } from './wire.js';
import { Workload } from './workload.js';

export interface SuiteOptions {
  seed: string;
  /** Its rounds take turns. */
  scenarios: readonly ScenarioName[];
  /** The longest it may take; then what has been reached counts. */
  seconds: number;
  roundSeconds: number;
  clients: number;
  instances: { direct: number; proxied: number };
  /** It ends as soon as all of these are reached. */
  goals: Goals;
  faults: Faults;
  /** How long an instance lives: see the option of the same name of the nemesis. */
  passages: number;
  /** Ends at the first round with a violation. */
  untilViolation: boolean;
  /** The library's tables in 8 HASH partitions each. */
  partitioned: boolean;
  mutant?: Mutant | undefined;
  log: (line: string) => void;
}

export interface Goals {
  requests: number;
  kills: number;
  killsAtEachFailpoint: number;
  postgresKills: number;
  proxyFaultsOfEachKind: number;
}

export interface Summary {
  seed: string;
  scenarios: readonly ScenarioName[];
  mutant: string | undefined;
  seconds: number;
  rounds: number;
  tally: Tally;
  requestsPerSecond: number;
  /** Goals that were not reached in time. */
  missed: string[];
  violations: Violation[];
  /** Where the requests of the rounds with violations are. */
  historyFiles: string[];
}

/** Keys of earlier rounds that are asked for again in every later one. */
const OLD_KEYS = 200;

/** Everything a run needs, put together and taken apart. */
export async function runSuite(options: SuiteOptions): Promise<Summary> {
  const main = await buildApplication(options.mutant);
  const random = new Random(options.seed);
  const postgres = await PostgresUnderFaults.start();
  try {
    await createSchema(postgres.url(), options.partitioned);
    const proxy = await FaultProxy.start(postgres.port, random.fork('proxy'));
    const provider = await ProviderUnderFaults.start(random.fork('provider'));
    try {
      return await new Suite(options, main, random, postgres, proxy, provider).run();
    } finally {
      proxy.stop();
      provider.stop();
    }
  } finally {
    await postgres.stop();
    rmSync(dirname(main), { recursive: true, force: true });
  }
}

/** Round after round: a storm, then quiet, then judgement. */
class Suite {
  private readonly tally = new Tally();
  private readonly violations: Violation[] = [];
  private readonly historyFiles: string[] = [];
  private readonly nemesis: Nemesis;
  private readonly fleet: Fleet;
  private readonly startedAt = performance.now();
  private readonly scenarios: Scenario[];
  private readonly old: Record<ScenarioName, KeyHistory[]> = { transaction: [], lease: [] };
  private workload: Workload | undefined;

  constructor(
    private readonly options: SuiteOptions,
    main: string,
    private readonly random: Random,
    private readonly postgres: PostgresUnderFaults,
    private readonly proxy: FaultProxy,
    private readonly provider: ProviderUnderFaults,
  ) {
    const { goals, seconds, faults } = options;
    const { tally } = this;
    this.scenarios = options.scenarios.map((name) =>
      name === 'lease' ? leaseScenario(provider) : transactionScenario,
    );
    // Quiet and judgement take a part of each round: two thirds of the time is storm, at the least.
    const postgresKillEveryMs = Math.min(
      ((seconds * 1_000) / Math.max(goals.postgresKills, 1)) * 0.5,
      (options.roundSeconds * 1_000) / 3,
    );
    this.nemesis = new Nemesis({
      random: random.fork('nemesis'),
      tally,
      postgres,
      proxy,
      postgresKillEveryMs,
      faults,
      passages: options.passages,
      answers: () => this.workload?.answers ?? 0,
      onExpired: (key) => this.workload?.takeOver(key),
    });
    this.fleet = new Fleet({
      main,
      urls: { direct: postgres.url(), proxied: postgres.url(proxy.port) },
      slots: options.instances,
      random: random.fork('fleet'),
      providerUrl: provider.url,
      onReady: (instance, connection) => this.nemesis.aim(instance, connection),
      onDeath: (instance, death) => {
        this.nemesis.count(death);
        if (death.kind === 'by itself') {
          this.violations.push({ rule: 'instance died', key: '', detail: `${instance.name}: ${death.why}` });
        }
      },
    });
  }

  async run(): Promise<Summary> {
    let rounds = 0;
    try {
      await this.fleet.allServing();
      while (!this.isOver(rounds)) {
        await this.round(++rounds);
      }
    } finally {
      await this.nemesis.stop();
      await this.fleet.stop();
    }
    const seconds = this.elapsed;
    return {
      seed: this.options.seed,
      scenarios: this.options.scenarios,
      mutant: this.options.mutant?.name,
      seconds: Math.round(seconds),
      rounds,
      tally: this.tally,
      requestsPerSecond: Math.round(this.tally.requests / seconds),
      missed: this.missedGoals(),
      violations: this.violations,
      historyFiles: this.historyFiles,
    };
  }

  private get elapsed(): number {
    return (performance.now() - this.startedAt) / 1_000;
  }

  private isOver(rounds: number): boolean {
    const { seconds, roundSeconds, untilViolation } = this.options;
    const hasTimeForAnother = this.elapsed + roundSeconds <= seconds;
    return (
      rounds > 0 &&
      (!hasTimeForAnother || this.missedGoals().length === 0 || (untilViolation && this.violations.length > 0))
    );
  }

  private missedGoals(): string[] {
    const { goals } = this.options;
    const { tally, scenarios } = this;
    const failpoints = new Set(scenarios.flatMap((scenario) => scenario.failpoints));
    const phases = new Set(scenarios.flatMap((scenario) => scenario.phases));
    const faultNames = FAULT_NAMES.filter((name) => phases.has(name.split(':')[0] as Phase));
    const reached: [what: string, count: number, goal: number][] = [
      ['requests', tally.requests, goals.requests],
      ['kills of the application', tally.kills, goals.kills],
      ['kills of PostgreSQL', tally.postgresKills, goals.postgresKills],
      ...[...failpoints].map(
        (name) => [`kills at "${name}"`, tally.killsAt[name], goals.killsAtEachFailpoint] as never,
      ),
      ...faultNames.map((name) => [`"${name}"`, tally.proxyFaults[name], goals.proxyFaultsOfEachKind] as never),
    ];
    return reached
      .filter(([, count, goal]) => count < goal)
      .map(([what, count, goal]) => `${what}: ${count} of ${goal}`);
  }

  private async round(number: number): Promise<void> {
    const { clients, roundSeconds, log } = this.options;
    const scenario = this.scenarios[(number - 1) % this.scenarios.length]!;
    const old = this.old[scenario.name];
    const workload = new Workload(this.fleet, this.random.fork(`round ${number}`), `r${number}`, scenario);
    this.workload = workload;
    const endOfStorm = performance.now() + roundSeconds * 1_000;

    this.provider.calm(false);
    this.nemesis.start(this.fleet, scenario);
    const traffic = workload.run(clients);
    await waitFor(() => performance.now() > endOfStorm, { what: 'the storm', timeoutMs: roundSeconds * 2_000 });
    workload.stop();
    // A busy machine, whose instances die faster than they start, would never come to the end of its keys.
    await within(roundSeconds * 1_000, traffic);
    await this.nemesis.stop();
    this.provider.calm(true);
    await traffic;

    await this.fleet.allServing();
    const before = requestsOf(old);
    await workload.resolveAll(clients, old);
    await this.quiet();
    await this.judge(number, scenario, workload.histories);

    this.tally.keys += workload.histories.length;
    this.tally.requests += workload.requests + requestsOf(old) - before;
    this.tally.clientAborts += workload.aborts;
    this.tally.decisions += workload.histories.reduce((sum, { decisions }) => sum + decisions.length, 0);
    this.tally.providerCalls = this.provider.calls;
    this.tally.providerEffects = this.provider.effects;
    this.tally.providerSteps = this.provider.steps;
    this.tally.unkeyedEffects = this.provider.unkeyedEffects;
    this.tally.unkeyedSteps = this.provider.unkeyedSteps;
    await this.keepSome(scenario, workload.histories);
    const { tally } = this;
    log(
      `round ${number} (${scenario.name}): ${Math.round(this.elapsed)} s, ${tally.requests} requests (${Math.round(tally.requests / this.elapsed)}/s), ` +
        `${tally.kills} kills (${(tally.kills / this.elapsed).toFixed(1)}/s), ${tally.postgresKills} of PostgreSQL, ` +
        `${Object.values(tally.proxyFaults).reduce((a, b) => a + b)} proxy faults, ${this.violations.length} violations`,
    );
  }

  /** No session may stay in a transaction, no connection out of its pool. */
  private async quiet(): Promise<void> {
    await waitFor(async () => (await this.postgres.run(openTransactions)).length === 0, {
      what: 'transactions to end',
      timeoutMs: 15_000,
    }).catch(() => undefined); // the oracle reports those that are left
    for (const instance of this.fleet.serving) {
      let last = '';
      await waitFor(
        async () => {
          const { total, idle, waiting } = await instance.pool();
          last = `${total} connections, ${idle} of them idle, ${waiting} requests waiting`;
          return idle === total && waiting === 0;
        },
        { what: 'connections to be given back', timeoutMs: 10_000 },
      ).catch(() => this.violations.push({ rule: 'connection leaked', key: '', detail: `${instance.name}: ${last}` }));
    }
  }

  private async judge(round: number, scenario: Scenario, histories: KeyHistory[]): Promise<void> {
    const old = this.old[scenario.name];
    const all = [...histories, ...old];
    const violations = await this.postgres.run(async (client) => {
      const found = await scenario.judge(client, histories, old, this.tally);
      if (round <= this.scenarios.length && found.length === 0) {
        await this.assertOracleSees(client, scenario, all);
      }
      return [...found, ...this.proxy.takeViolations()];
    });
    if (violations.length > 0) {
      const file = join(tmpdir(), `faults-${this.options.seed}-${process.pid}-round-${round}.jsonl`);
      const keys = new Set(violations.map(({ key }) => key));
      writeHistory(
        file,
        all.filter(({ key }) => keys.has(key)),
      );
      this.historyFiles.push(file);
      this.violations.push(...violations);
    }
  }

  /** A violation planted in the application's own tables: an oracle that reads another database would not see it. */
  private async assertOracleSees(client: Client, { canary, judge }: Scenario, all: KeyHistory[]): Promise<void> {
    const victim = all.find((history) => history.route === canary.route && history.resolved);
    if (victim === undefined) {
      throw new Error(`Not one request to "${canary.route}" went through: there is nothing to prove the oracle on.`);
    }
    await client.query('begin');
    try {
      await client.query(canary.sql, [victim.key]);
      const seen = (await judge(client, [victim], [])).filter(({ key }) => key === victim.key);
      if (!seen.some(({ rule }) => rule === 'effect doubled')) {
        throw new Error('The oracle does not see a doubled effect that was planted: it reads the wrong database.');
      }
    } finally {
      await client.query('rollback');
    }
  }

  /** Some keys stay, to be asked for again; those whose books must balance, or that expire, do not. */
  private async keepSome({ name, passing, forgetAllBut }: Scenario, histories: KeyHistory[]): Promise<void> {
    const candidates = histories.filter(({ route }) => !passing.includes(route)).slice(0, OLD_KEYS);
    const kept = this.random.shuffled([...this.old[name], ...candidates]).slice(0, OLD_KEYS);
    this.old[name] = kept;
    await this.postgres.run((client) =>
      forgetAllBut(
        client,
        kept.map(({ key }) => key),
      ),
    );
  }
}

function requestsOf(histories: readonly KeyHistory[]): number {
  return histories.reduce((sum, { exchanges }) => sum + exchanges.length, 0);
}
