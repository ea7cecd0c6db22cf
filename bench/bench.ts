import type { Arguments } from './arguments.js';
import { ChildServer } from './child-server.js';
import type { Database, Databases } from './database.js';
import { load, type LoadOptions, type LoadResult, uniqueKeys } from './load.js';
import { ONE_KB } from './payload.js';
import { Proxy } from './proxy/proxy.js';
import type { Command } from './servers/protocol.js';
import type { VariantId } from './variants.js';

/** A server under test with the database it works on. */
export class Server {
  constructor(
    readonly id: VariantId,
    readonly database: Database,
    private readonly child: ChildServer<Command>,
  ) {}

  url(path = 'operations'): string {
    return `http://127.0.0.1:${this.child.port}/${path}`;
  }

  ask(command: Command): Promise<unknown> {
    return this.child.ask(command);
  }

  /** First requests with a body of 1 KB, unless the options say otherwise. */
  load(options: Partial<LoadOptions> & { connections: number }, path?: string): Promise<LoadResult> {
    return load({ url: this.url(path), body: ONE_KB, keys: uniqueKeys, status: 201, ...options });
  }

  stop(): Promise<void> {
    return this.child.stop();
  }
}

/** What a scenario works with. Everything it starts here ends with the scenario. */
export class Bench {
  private readonly ends: (() => Promise<void>)[] = [];

  constructor(
    readonly options: Pick<Arguments, 'quick' | 'rounds'>,
    private readonly databases: Databases,
    private readonly postgresPort: number,
    private readonly entry: string,
  ) {}

  /** One of two values, by how thorough the run is to be. */
  pick<T>(quick: T, thorough: T): T {
    return this.options.quick ? quick : thorough;
  }

  async database(): Promise<Database> {
    const database = await this.databases.create();
    this.ends.push(() => database.drop());
    return database;
  }

  async server(id: VariantId, given: { database?: Database; proxy?: Proxy } = {}): Promise<Server> {
    const database = given.database ?? (await this.database());
    const url = given.proxy?.through(database.url) ?? database.url;
    const child = await ChildServer.start<Command>(this.entry, [id], { DATABASE_URL: url });
    const server = new Server(id, database, child);
    this.ends.push(() => server.stop());
    return server;
  }

  async servers<Id extends VariantId>(ids: readonly Id[], proxy?: Proxy): Promise<Server[]> {
    const servers: Server[] = [];
    for (const id of ids) {
      servers.push(await this.server(id, { proxy }));
    }
    return servers;
  }

  /** By number of requests, not by time: the same code is then compiled in each process when the figures are taken. */
  async warmUp(servers: readonly Server[], path?: string): Promise<void> {
    for (const server of servers) {
      await server.load({ connections: 16, requests: this.pick(400, 5000) }, path);
    }
  }

  async proxy(delayMs: number): Promise<Proxy> {
    const proxy = await Proxy.start(this.entry, this.postgresPort, delayMs);
    this.ends.push(() => proxy.stop());
    return proxy;
  }

  /**
   * Round after round over all of them, A B C A B C: what changes on the machine meanwhile meets all alike. Each is
   * measured right after the same once more, which does not count: code that has waited for its turn is cold.
   */
  async interleave<T, R>(
    items: readonly T[],
    measure: (item: T) => Promise<R>,
    rounds = this.options.rounds,
  ): Promise<Map<T, R[]>> {
    const results = new Map<T, R[]>(items.map((item) => [item, []]));
    for (let round = 0; round < rounds; round++) {
      for (const item of items) {
        if (!this.options.quick) {
          await measure(item);
        }
        results.get(item)!.push(await measure(item));
      }
    }
    return results;
  }

  async end(): Promise<void> {
    for (const end of this.ends.splice(0).toReversed()) {
      await end();
    }
  }
}
