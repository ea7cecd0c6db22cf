import { setTimeout as delay } from 'node:timers/promises';
import type { Random } from '../faults/random.js';
import { TTL_MS } from './app/protocol.js';
import { type Answer, send, type Send } from './client.js';
import type { Instance } from './instance.js';

export const ACCOUNTS = 64;

interface Route {
  /** How often it is chosen, relative to the others. */
  weight: number;
  /** What is recorded. */
  status: 201 | 202 | 402;
  /** What its first attempt is answered with. */
  failure?: 500 | 503;
  /** The response is too large to keep. */
  tombstone?: true;
  /** A duplicate comes while it runs, and is refused or waits. */
  duplicate?: 'refused' | 'waits';
  /** Characters of the request. */
  text?: number;
}

const ROUTES: Record<string, Route> = {
  plain: { weight: 6, status: 201 },
  context: { weight: 2, status: 201 },
  slow: { weight: 3, status: 201, duplicate: 'refused' },
  patient: { weight: 3, status: 201, duplicate: 'waits' },
  failing: { weight: 2, status: 201, failure: 500 },
  swallowed: { weight: 1, status: 201, failure: 500 },
  overdue: { weight: 1, status: 201, failure: 503 },
  declined: { weight: 2, status: 402 },
  serializable: { weight: 2, status: 201 },
  echo: { weight: 2, status: 201, text: 60_000 },
  stream: { weight: 2, status: 201 },
  large: { weight: 1, status: 201, tombstone: true },
  raw: { weight: 2, status: 202 },
};

/** A client that has not got its answer by then has met something that should not be. */
const RETRIES = 60;
const RETRY_PAUSE_MS = 50;

/** More keys at a time are not begun: a machine that cannot keep up with the rate is not to drown in it. */
const MOST_PENDING = 200;

/** A key that is as old may expire before its retry is there: nothing is claimed of it any more. */
const SAFE_AGE_MS = 0.7 * TTL_MS;

const MOST_COMPLAINTS = 20;

export interface Tally {
  keys: number;
  requests: number;
  replays: number;
  conflicts: number;
  mismatches: number;
  failures: number;
  tombstones: number;
  withoutKey: number;
  clientAborts: number;
  /** Keys that were not begun, because too many were under way. */
  skipped: number;
  /** Keys that took so long that not all was asked, or claimed, of them. */
  late: number;
}

/** Clients at an even rate, each with a key of its own and all that can become of it. */
export class Traffic {
  readonly tally: Tally = {
    keys: 0,
    requests: 0,
    replays: 0,
    conflicts: 0,
    mismatches: 0,
    failures: 0,
    tombstones: 0,
    withoutKey: 0,
    clientAborts: 0,
    skipped: 0,
    late: 0,
  };
  /** Executions that were committed, as far as their answers tell. */
  executions = 0;
  /** Answers that should not have come; the first ones. */
  readonly unexpected: string[] = [];
  private readonly pending = new Set<Promise<void>>();
  private readonly stopping = new AbortController();
  private running: Promise<void> = Promise.resolve();

  constructor(
    private readonly instances: readonly Instance[],
    private readonly random: Random,
    private readonly keysPerSecond: number,
  ) {}

  start(): void {
    this.running = this.run();
  }

  /** The keys under way are carried on to their end. */
  async stop(): Promise<void> {
    this.stopping.abort();
    await this.running;
    await Promise.all(this.pending);
  }

  private async run(): Promise<void> {
    const { signal } = this.stopping;
    const began = performance.now();
    for (let number = 0; !signal.aborted; number++) {
      const wait = began + (number * 1000) / this.keysPerSecond - performance.now();
      if (wait > 0) {
        await delay(wait, undefined, { signal }).catch(() => undefined);
      }
      if (this.pending.size >= MOST_PENDING) {
        this.tally.skipped++;
        continue;
      }
      const use = this.useKey(`key-${number}`, this.random.fork(number)).catch((error: unknown) =>
        this.complain(`key-${number}: ${String(error)}`),
      );
      this.pending.add(use);
      void use.then(() => this.pending.delete(use));
    }
  }

  private async useKey(key: string, random: Random): Promise<void> {
    this.tally.keys++;
    const name = random.weighted(Object.entries(ROUTES).map(([route, { weight }]) => [route, weight] as const));
    const use = new KeyUse(this, key, name, ROUTES[name]!, this.instances, random);
    await use.run();
    this.executions += use.executions;
  }

  complain(what: string): void {
    if (this.unexpected.length < MOST_COMPLAINTS) {
      this.unexpected.push(what);
    }
  }
}

/** The life of one key. */
class KeyUse {
  /** Answers that were no replays. */
  private runs = 0;
  /** To arrive: a duplicate may get its replay before the one that ran gets its answer. */
  private first: Answer | undefined;
  private readonly began = performance.now();
  private turn: number;
  private readonly body: { account: string; text?: string };

  constructor(
    private readonly traffic: Traffic,
    private readonly key: string,
    private readonly name: string,
    private readonly route: Route,
    private readonly instances: readonly Instance[],
    private readonly random: Random,
  ) {
    this.turn = random.integer(0, 1);
    this.body = {
      account: `account-${random.integer(0, ACCOUNTS - 1)}`,
      ...(route.text === undefined ? {} : { text: key.padEnd(route.text, '.') }),
    };
  }

  /** How many have committed. Where no answer tells of one, its client had gone away. */
  get executions(): number {
    const isUndone = this.route.status === 402;
    return isUndone || this.first === undefined ? 0 : Math.max(1, this.runs);
  }

  async run(): Promise<void> {
    const { random, route, traffic } = this;
    const { tally } = traffic;
    if (route.failure !== undefined) {
      tally.failures++;
      this.expect(await this.send({ attempt: 1 }), route.failure);
    } else if (random.chance(0.05)) {
      tally.clientAborts++;
      this.take(await this.send({ abortAfterMs: random.integer(1, 30) }));
    }
    const duplicate = route.duplicate === undefined ? undefined : this.sendDuplicate();
    await this.sendUntilRecorded();
    await duplicate;

    for (let replays = random.integer(1, 3); replays > 0 && this.isYoung(); replays--) {
      await this.sendReplay();
    }
    if (random.chance(0.15) && this.isYoung()) {
      tally.mismatches++;
      const answer = await this.send({ body: { ...this.body, account: 'another' } });
      if (this.isYoung()) {
        this.expect(answer, 422);
      }
    }
    if (random.chance(0.03)) {
      tally.withoutKey++;
      this.expect(await this.send({ key: undefined }), 400);
    }
    tally.late += this.isYoung() ? 0 : 1;
  }

  /** Each time to another instance. */
  private async send(given: Partial<Send> = {}): Promise<Answer | undefined> {
    this.traffic.tally.requests++;
    const instance = this.instances[this.turn++ % this.instances.length]!;
    return send(instance, { route: this.name, key: this.key, body: this.body, attempt: 2, ...given });
  }

  /** What a careful client does: the same request again while the answer asks for patience. */
  private async sendUntilRecorded(): Promise<void> {
    for (let retries = 0; retries < RETRIES; retries++) {
      const answer = await this.send();
      if (!this.isRefusal(answer)) {
        this.take(answer);
        return;
      }
      await delay(RETRY_PAUSE_MS);
    }
    this.complain(`no answer but refusals`);
  }

  private async sendDuplicate(): Promise<void> {
    await delay(this.random.integer(0, 30));
    const answer = await this.send();
    if (!this.isRefusal(answer)) {
      this.take(answer);
    } else if (this.route.duplicate === 'waits') {
      this.complain(`a duplicate did not wait`);
    }
  }

  private async sendReplay(): Promise<void> {
    this.traffic.tally.replays++;
    const answer = await this.send();
    this.take(answer);
    if (this.isYoung() && answer !== undefined && !this.isOfEarlier(answer)) {
      this.complain(`${answer.status} that is no replay`);
    }
  }

  /** The key is in flight, its transaction has met another one too often, or the machine was too slow. */
  private isRefusal(answer: Answer | undefined): boolean {
    const refused = /urn:nestjs-idempotency:(?:request-in-flight|transaction-conflict|timed-out)"/;
    const isRefused = answer !== undefined && answer.status >= 400 && refused.test(answer.body.toString());
    this.traffic.tally.conflicts += isRefused ? 1 : 0;
    return isRefused;
  }

  /** An answer of the handler, first or replayed: all are of one execution, and equal. */
  private take(answer: Answer | undefined): void {
    if (answer === undefined) {
      return; // the client went away
    }
    const isOfEarlier = this.isOfEarlier(answer);
    const isTombstone = isOfEarlier && !answer.replayed;
    this.traffic.tally.tombstones += isTombstone ? 1 : 0;
    if (!this.expect(answer, isTombstone ? 409 : this.route.status)) {
      return;
    }
    this.runs += isOfEarlier ? 0 : 1;
    if (this.isYoung()) {
      const { first } = this;
      const isSame = first?.contentType === answer.contentType && first?.body.equals(answer.body);
      if (this.runs > 1 || (first !== undefined && this.route.tombstone === undefined && !isSame)) {
        this.complain(`${this.runs} runs, or a replay with other bytes`);
      }
    }
    this.first ??= answer;
  }

  /** The operation was complete before this request. */
  private isOfEarlier({ replayed, status }: Answer): boolean {
    return replayed || (this.route.tombstone !== undefined && status === 409);
  }

  private expect(answer: Answer | undefined, status: number): boolean {
    if (answer?.status !== status) {
      const got = answer === undefined ? 'nothing' : `${answer.status} ${answer.body.toString('latin1', 0, 200)}`;
      this.complain(`${got} instead of ${status}`);
    }
    return answer?.status === status;
  }

  private complain(what: string): void {
    this.traffic.complain(`${this.name} ${this.key}: ${what}`);
  }

  private isYoung(): boolean {
    return performance.now() - this.began < SAFE_AGE_MS;
  }
}
