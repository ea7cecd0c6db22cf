import { setMaxListeners } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { Failpoint } from '../../src/util/failpoint.js';
import type { Connection, Fleet } from './fleet.js';
import type { Faults } from './mutants.js';
import type { Death, Instance } from './instance.js';
import type { PostgresUnderFaults } from './postgres.js';
import { FAULT_NAMES, type FaultName, type FaultProxy, PLACES } from './proxy.js';
import type { Random } from './random.js';
import { LEASE_LIMITS } from './routes.js';
import type { Scenario } from './scenario.js';
import type { Phase } from './wire.js';
import type { Tally } from './tally.js';

export interface NemesisOptions {
  random: Random;
  tally: Tally;
  postgres: PostgresUnderFaults;
  proxy: FaultProxy;
  /** Pause between two kills of PostgreSQL. */
  postgresKillEveryMs: number;
  faults: Faults;
  /** An instance dies at the latest when it passes its failpoint this often: the larger, the longer the lives. */
  passages: number;
  /** How many requests of this round have been answered. */
  answers: () => number;
  /** Called when the lease of a key has run out although its holder is alive. */
  onExpired: (key: string) => void;
}

/** An armed failpoint that is not reached within this time gives way to another one. */
const PATIENCE_MS = 4_000;

/** PostgreSQL gets this much to do before it is killed again. */
const ANSWERS_BETWEEN_KILLS = 60;

/** Strikes, from its seed, wherever something can break. Everything it does is counted, so that each fault is known to have struck. */
export class Nemesis {
  private readonly random: Random;
  private deck: Failpoint[] = [];
  private fleet: Fleet | undefined;
  private scenario: Scenario | undefined;
  private over = new AbortController();
  private loops: Promise<void>[] = [];
  private proxyDeck: FaultName[] = [];
  private answersAtLastKill = 0;

  constructor(private readonly options: NemesisOptions) {
    this.random = options.random;
    this.over.abort();
  }

  private get active(): boolean {
    return !this.over.signal.aborted;
  }

  start(fleet: Fleet, scenario: Scenario): void {
    this.fleet = fleet;
    if (this.scenario !== scenario) {
      this.scenario = scenario;
      this.deck = [];
    }
    this.over = new AbortController();
    setMaxListeners(0, this.over.signal); // everything that is to come waits for it
    const { postgresKillEveryMs: pauseMs, faults } = this.options;
    this.answersAtLastKill = 0;
    this.loops = [
      ...(scenario.name === 'lease'
        ? [
            this.repeat(
              [100, 300],
              this.afterAnswers(8, () => this.backDateLease()),
            ),
            this.repeat(
              [500, 1_500],
              this.afterAnswers(25, () => this.freeze()),
            ),
          ]
        : [this.repeat([60, 200], () => this.backDate())]),
      ...(faults.proxy ? [this.repeat([20, 60], () => this.breakConnections())] : []),
      ...(faults.postgres
        ? [
            this.repeat([300, 1_500], () => this.terminateBackend()),
            this.repeat([6_000, 12_000], () => this.killBackend()),
            this.repeat([pauseMs * 0.8, pauseMs * 1.2], () => this.killPostgres()),
          ]
        : []),
    ];
    for (const instance of fleet.serving) {
      this.aim(instance, instance.config.connection);
    }
  }

  /** Ends what it is about to do and takes back what it has prepared. PostgreSQL runs afterwards. */
  async stop(): Promise<void> {
    this.over.abort();
    this.options.proxy.disarm();
    this.fleet?.serving.forEach((instance) => instance.arm(undefined));
    await Promise.all(this.loops);
  }

  /** Chooses where an instance dies. */
  aim(instance: Instance, connection: Connection): void {
    if (!this.active || !this.options.faults.kills || !instance.alive) {
      return;
    }
    if (this.random.chance(0.1)) {
      this.after(this.random.integer(0, 50 * this.options.passages), () => instance.kill());
      return;
    }
    const failpoint = this.nextFailpoint(connection);
    instance.arm(failpoint, this.random.integer(1, isRare(failpoint) ? 2 : this.options.passages));
    this.after(PATIENCE_MS, () => {
      if (instance.alive) {
        this.deck.unshift(failpoint); // it did not get there
        this.aim(instance, connection);
      }
    });
  }

  count(death: Death): void {
    if (death.kind === 'failpoint') {
      this.options.tally.killsAt[death.failpoint]++;
    } else if (death.kind === 'killed') {
      this.options.tally.killsAnywhere++;
    }
  }

  /** Only behind the proxy does a COMMIT lose its answer, so only there is the outcome looked up. */
  private nextFailpoint(connection: Connection): Failpoint {
    const mayLook = connection === 'proxied' && this.scenario!.failpoints.includes('outcome: looking');
    if (mayLook && this.random.chance(0.25)) {
      return 'outcome: looking';
    }
    for (;;) {
      if (this.deck.length === 0) {
        this.deck = this.random.shuffled(this.scenario!.failpoints);
      }
      const failpoint = this.deck.pop()!;
      if (failpoint !== 'outcome: looking') {
        return failpoint;
      }
    }
  }

  private breakConnections(): Promise<void> {
    const { proxy, tally, random } = this.options;
    const struck = (phase: Phase): number =>
      FAULT_NAMES.reduce((sum, name) => sum + (name.startsWith(phase) ? tally.proxyFaults[name] : 0), 0);
    const { phases } = this.scenario!;
    const fewest = Math.min(...phases.map(struck));
    for (const phase of phases) {
      // A record lies behind a claim and a handler: too many faults in those, and hardly one would come that far.
      if (proxy.armedFor(phase) > 0 || struck(phase) > fewest + PLACES.length) {
        continue;
      }
      let index = this.proxyDeck.findIndex((name) => name.startsWith(phase));
      if (index < 0) {
        this.proxyDeck.push(...random.shuffled(FAULT_NAMES.filter((name) => name.startsWith(phase))));
        index = this.proxyDeck.findIndex((name) => name.startsWith(phase));
      }
      const [name] = this.proxyDeck.splice(index, 1) as [FaultName];
      proxy.arm(name, random.integer(0, 6), () => tally.proxyFaults[name]++);
    }
    return Promise.resolve();
  }

  private async killPostgres(): Promise<void> {
    const { postgres, tally, answers } = this.options;
    if (answers() - this.answersAtLastKill < ANSWERS_BETWEEN_KILLS) {
      return; // on a busy machine: a server that has done nothing yet has nothing to lose
    }
    this.answersAtLastKill = answers();
    await postgres.kill();
    tally.postgresKills++;
    await postgres.restart();
  }

  private async terminateBackend(): Promise<void> {
    const pid = await this.someBackend();
    if (pid !== undefined) {
      await this.options.postgres.run((client) => client.query('select pg_terminate_backend($1)', [pid]));
      this.options.tally.terminatedBackends++;
    }
  }

  private async killBackend(): Promise<void> {
    const pid = await this.someBackend();
    if (pid !== undefined && this.options.postgres.killBackend(pid)) {
      this.options.tally.backendKills++;
    }
  }

  /** A session of the application, rather one that is in the middle of something. */
  private async someBackend(): Promise<number | undefined> {
    const { rows } = await this.options.postgres.run((client) =>
      client.query<{ pid: number }>(
        `select pid from pg_stat_activity
         where backend_type = 'client backend' and application_name <> 'fault suite'
         order by state = 'idle', pid`,
      ),
    );
    return rows.length === 0 ? undefined : this.random.pick(rows).pid;
  }

  /** Lets keys expire while they are in use. */
  private async backDate(): Promise<void> {
    const { rowCount } = await this.options.postgres.run((client) =>
      client.query(`
        update idempotency_keys set expires_at = clock_timestamp()
        where (scope, key) in (
          select scope, key from idempotency_keys
          where path = '/pay/expiring' and expires_at > clock_timestamp() + interval '5 ms'
          order by random() limit 3)`),
    );
    this.options.tally.backDatedKeys += rowCount ?? 0;
  }

  /**
   * Lets a lease run out whose holder is alive, and knows nothing of it. One that runs out between being chosen and
   * being changed goes back, too: the journal would take a later time for a renewal.
   */
  private async backDateLease(): Promise<void> {
    const { rows } = await this.options.postgres.run((client) =>
      client.query<{ key: string }>(`
        update idempotency_keys
        set lease_expires_at = least(clock_timestamp(), lease_expires_at - interval '1 ms')
        where (scope, key) in (
          select scope, key from idempotency_keys where lease_expires_at > clock_timestamp()
          order by random() limit 1
          for update skip locked)
        returning key`),
    );
    for (const { key } of rows) {
      this.options.tally.backDatedLeases++;
      this.options.onExpired(key);
    }
  }

  /** A process that neither works nor dies, for longer than its leases last. */
  private async freeze(): Promise<void> {
    const serving = this.fleet?.serving ?? [];
    if (serving.length > 1) {
      await this.random.pick(serving).freeze(LEASE_LIMITS.leaseMs * this.random.integer(1, 3) + 50);
      this.options.tally.pauses++;
    }
  }

  /** What breaks operations rather than processes comes at their pace: otherwise a busy machine would finish none. */
  private afterAnswers(count: number, strike: () => Promise<void>): () => Promise<void> {
    let last = 0;
    return async () => {
      if (this.options.answers() - last >= count) {
        last = this.options.answers();
        await strike();
      }
    };
  }

  private async repeat([low, high]: [number, number], strike: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        await delay(this.random.integer(low, high), undefined, { signal: this.over.signal });
      } catch {
        return;
      }
      // Its own connection may be a victim of another fault.
      await strike().catch((error: unknown) => {
        if (!isConnectionError(error)) {
          throw error;
        }
      });
    }
  }

  private after(ms: number, act: () => void): void {
    delay(ms, undefined, { signal: this.over.signal, ref: false }).then(act, () => undefined);
  }
}

function isRare(failpoint: Failpoint): boolean {
  return /^(?:outcome|rollback|handler: failed)/.test(failpoint);
}

/** PostgreSQL says so by class 57 (operator intervention), the socket by its end. */
function isConnectionError(error: unknown): boolean {
  const { code = '', message = '' } = error as { code?: string; message?: string };
  return /^(?:57|08|ECONN|EPIPE)/.test(code) || /connection terminated|not queryable/i.test(message);
}
