import { setTimeout as delay } from 'node:timers/promises';
import { CLIENT_WENT_AWAY, decide, send } from './client.js';
import type { Fleet } from './fleet.js';
import { type Answer, type Exchange, isProblem, KeyHistory, type Purpose } from './history.js';
import type { Random } from './random.js';
import { routeOf } from './routes.js';
import type { Scenario } from './scenario.js';

/** A client that has not learnt its outcome by then leaves it to the end of the round. */
const RETRIES = 25;

/** A key that nothing disturbs any more resolves within this time: the server itself ends a frozen session in 6 s. */
const RESOLUTION_MS = 20_000;

/** The clients: many at a time, each with one key after another. */
export class Workload {
  readonly histories: KeyHistory[] = [];
  /** Requests that got an answer, of whatever kind. */
  answers = 0;
  private readonly takers: Promise<unknown>[] = [];
  private stopped = false;
  /** A key did not resolve in its time: a violation already, so that the others are not waited for as long. */
  private isStuck = false;

  constructor(
    private readonly fleet: Fleet,
    private readonly random: Random,
    private readonly name: string,
    private readonly scenario: Pick<Scenario, 'routes' | 'habits'>,
  ) {}

  get requests(): number {
    return this.histories.reduce((sum, { exchanges }) => sum + exchanges.length, 0);
  }

  get aborts(): number {
    return this.histories.reduce((sum, history) => sum + history.exchanges.filter(wasAborted).length, 0);
  }

  /** Runs until {@link stop}; the keys under way are carried on to their end. */
  async run(clients: number): Promise<void> {
    const client = async (): Promise<void> => {
      while (!this.stopped) {
        await this.useKey();
      }
    };
    await Promise.all(Array.from({ length: clients }, client));
  }

  stop(): void {
    this.stopped = true;
  }

  /** Two clients at once ask for a key that is there to be taken. */
  takeOver(key: string): void {
    const history = this.histories.find((candidate) => candidate.key === key);
    if (history !== undefined) {
      const random = this.random.fork(`takers of ${key} at ${history.exchanges.length}`);
      this.takers.push(...[1, 2].map(() => this.send(history, random, 'duplicate', history.failures + 1)));
    }
  }

  /** After the storm: every key, and some `old` ones, are asked for once more, until they give their answer. */
  async resolveAll(clients: number, old: readonly KeyHistory[]): Promise<void> {
    await Promise.all(this.takers);
    const left = [...this.histories, ...old];
    const client = async (): Promise<void> => {
      for (let history = left.pop(); history !== undefined; history = left.pop()) {
        await this.resolve(history, left.length < this.histories.length ? 'final' : 'late replay');
      }
    };
    await Promise.all(Array.from({ length: clients }, client));
  }

  /** One request more, until there is a definite answer; an unresolved key is the oracle's business. */
  async resolve(history: KeyHistory, purpose: Purpose): Promise<void> {
    const random = this.random.fork(`${history.key}/${purpose}`);
    const deadline = performance.now() + RESOLUTION_MS;
    do {
      const answer = await this.send(history, random, purpose, history.failures + 1);
      if (answer !== undefined && history.isDefinite(answer)) {
        return;
      }
      if (answer !== undefined && isProblem(answer, 'outcome-unknown')) {
        await this.decide(history, random);
      }
      await delay(random.integer(20, 100));
    } while (!this.isStuck && performance.now() < deadline);
    this.isStuck = true;
  }

  private async useKey(): Promise<void> {
    const number = this.histories.length;
    const random = this.random.fork(number);
    const route = random.weighted(this.scenario.routes.map((name) => [name, routeOf(name).weight] as const));
    const failures = routeOf(route).failure === undefined ? 0 : random.integer(0, 2);
    const history = new KeyHistory(`${this.name}-${number}`, route, random.integer(1, 1_000), failures);
    this.histories.push(history);

    const duplicates = random.chance(0.3) ? random.integer(1, 3) : 0;
    await Promise.all([
      this.retry(history, random.fork('retries')),
      ...Array.from({ length: duplicates }, (_, n) => this.duplicate(history, random.fork(`duplicate ${n}`))),
    ]);
    if (!history.resolved) {
      return;
    }
    for (
      let replays = random.weighted([
        [0, 2],
        [1, 3],
        [3, 1],
      ]);
      replays > 0;
      replays--
    ) {
      await this.send(history, random, 'replay', history.failures + 1);
    }
    // A key that has expired would be the changed payload's, and its unfinished lease would keep the others out.
    if (history.route !== 'lapsing' && random.chance(0.1)) {
      await this.send(history, random, 'changed payload', history.failures + 1);
    }
  }

  /** What a careful client does: the same key again until the answer is definite. */
  private async retry(history: KeyHistory, random: Random): Promise<void> {
    const { goesAway, abortWithinMs } = this.scenario.habits;
    for (let attempt = 1; attempt <= RETRIES; attempt++) {
      const abortAfterMs = attempt === 1 && random.chance(goesAway) ? random.integer(0, abortWithinMs) : undefined;
      const answer = await this.send(history, random, attempt === 1 ? 'first' : 'retry', attempt, abortAfterMs);
      if (answer !== undefined && history.isDefinite(answer)) {
        return;
      }
      // Others find out for themselves that nothing but a person helps.
      if (answer !== undefined && isProblem(answer, 'outcome-unknown') && random.chance(0.3)) {
        await this.decide(history, random);
      }
      await delay(random.integer(2, Math.min(10 * attempt, 150)));
    }
  }

  /** What a nervous one does besides. */
  private async duplicate(history: KeyHistory, random: Random): Promise<void> {
    const { goesAway, abortWithinMs, duplicateWithinMs } = this.scenario.habits;
    await delay(random.integer(0, duplicateWithinMs));
    const abortAfterMs = random.chance(goesAway) ? random.integer(0, abortWithinMs) : undefined;
    await this.send(history, random, 'duplicate', 1, abortAfterMs);
  }

  /** A person looks into it, and decides. */
  private async decide(history: KeyHistory, random: Random): Promise<void> {
    await decide(await this.fleet.pick(random), history, random.pick(['release', 'resolve'] as const));
  }

  private async send(
    history: KeyHistory,
    random: Random,
    purpose: Purpose,
    attempt: number,
    abortAfterMs?: number,
  ): Promise<Answer | undefined> {
    const answer = await send(await this.fleet.pick(random), history, { purpose, attempt, abortAfterMs });
    this.answers += answer === undefined ? 0 : 1;
    return answer;
  }
}

function wasAborted({ unknown }: Exchange): boolean {
  return unknown === CLIENT_WENT_AWAY;
}
