import type { InstanceConfig } from './app/protocol.js';
import { type Death, Instance } from './instance.js';
import type { Random } from './random.js';
import { deferred } from '../../src/util/deferred.js';
import { waitFor } from '../support/wait-for.js';

export type Connection = InstanceConfig['connection'];

interface Slot {
  connection: Connection;
  instance: Instance | undefined;
}

export interface FleetOptions {
  main: string;
  /** The database, directly and through the proxy. */
  urls: Record<Connection, string>;
  slots: Record<Connection, number>;
  random: Random;
  providerUrl: string;
  /** Called when an instance has taken its place. */
  onReady: (instance: Instance, connection: Connection) => void;
  onDeath: (instance: Instance, death: Death) => void;
}

const HOURS = 3_600_000;

/** Instances of the application, each replaced at once by one that has already started: the traffic never stops. */
export class Fleet {
  private readonly slots: Slot[];
  private readonly standby: Record<Connection, Instance[]> = { direct: [], proxied: [] };
  private readonly started = new Set<Instance>();
  private waiting = deferred();
  private stopped = false;
  private count = 0;

  constructor(private readonly options: FleetOptions) {
    const { slots } = options;
    this.slots = (['direct', 'proxied'] as const).flatMap((connection) =>
      Array.from({ length: slots[connection] }, () => ({ connection, instance: undefined })),
    );
    for (const slot of this.slots) {
      this.startStandby(slot.connection);
    }
  }

  /** An instance that takes requests, at random; waits while there is none. */
  async pick(random: Random): Promise<Instance> {
    for (;;) {
      const ready = this.serving;
      if (ready.length > 0) {
        return random.pick(ready);
      }
      await this.waiting.promise;
    }
  }

  get serving(): Instance[] {
    return this.slots.flatMap(({ instance }) => (instance?.alive ? [instance] : []));
  }

  async allServing(): Promise<void> {
    await waitFor(() => this.serving.length === this.slots.length, {
      what: 'every instance to serve',
      timeoutMs: 30_000,
    });
  }

  async stop(): Promise<void> {
    this.stopped = true;
    const instances = [...this.started];
    instances.forEach((instance) => instance.kill());
    await Promise.all(instances.map(({ died }) => died));
  }

  /** As many wait as serve: a start takes longer than an instance lives. */
  private startStandby(connection: Connection): void {
    const { main, urls, random, providerUrl } = this.options;
    this.count++;
    const config: InstanceConfig = {
      databaseUrl: urls[connection],
      connection,
      adapter: this.count % 2 === 0 ? 'express' : 'fastify',
      clockOffsetMs: random.pick([0, 0, 30 * HOURS, -30 * HOURS]),
      poolSize: 8,
      providerUrl,
      name: `instance ${this.count}`,
    };
    const instance = new Instance(main, `${this.count} (${connection}, ${config.adapter})`, config);
    this.started.add(instance);
    void this.waitForStart(instance);
    void this.waitForDeath(instance);
  }

  private async waitForStart(instance: Instance): Promise<void> {
    const isReady = await instance.ready.then(
      () => true,
      () => false,
    );
    if (isReady) {
      this.standby[instance.config.connection].push(instance);
      this.fillSlots();
    }
  }

  private async waitForDeath(instance: Instance): Promise<void> {
    const { connection } = instance.config;
    const death = await instance.died;
    this.started.delete(instance);
    this.standby[connection] = this.standby[connection].filter((other) => other !== instance);
    if (this.stopped) {
      return;
    }
    this.options.onDeath(instance, death);
    const slot = this.slots.find((candidate) => candidate.instance === instance);
    if (slot === undefined) {
      this.startStandby(connection);
    } else {
      slot.instance = undefined;
      this.fillSlots();
    }
  }

  private fillSlots(): void {
    for (const slot of this.slots) {
      const instance = slot.instance === undefined ? this.standby[slot.connection].shift() : undefined;
      if (instance !== undefined) {
        slot.instance = instance;
        this.startStandby(slot.connection);
        this.options.onReady(instance, slot.connection);
      }
    }
    if (this.serving.length > 0) {
      this.waiting.resolve();
      this.waiting = deferred();
    }
  }
}
