import type { Client, Pool, PoolClient } from 'pg';
import type { DataSource } from 'typeorm';
import { within } from '../util/timing.js';

/** What pg's Client and pg-pool's Pool have beyond their public types. */
type LoneClient = Client & { connection: { stream: { destroy(): void } }; unref?(): void };
type ClientMaker = {
  Client: new (options: object) => LoneClient;
  options: { onConnect?(client: Client): unknown };
};

/** A session with PostgreSQL beside the pool, so that no use of the pool can keep it busy. */
export class LoneSession {
  private constructor(private readonly raw: LoneClient) {}

  /** @throws when the primary cannot be reached in time */
  static async open(dataSource: DataSource, limitMs: number): Promise<LoneSession> {
    const { master } = dataSource.driver as unknown as { master: Pool & ClientMaker };
    const client = new master.Client(master.options);
    client.on('error', () => undefined); // who asks next is told
    const session = new LoneSession(client);
    try {
      const connected = await within(
        limitMs,
        client.connect().then(() => true),
      );
      if (connected === undefined) {
        throw new Error(`no connection within ${limitMs} ms`);
      }
      // By these the pool's own connections are set up, with a role or a search_path for instance.
      await master.options.onConnect?.(client);
      master.emit('connect', client as unknown as PoolClient);
      client.unref?.(); // it must not keep a process alive that is done
      return session;
    } catch (error) {
      session.destroy();
      throw error;
    }
  }

  get client(): PoolClient {
    return this.raw as unknown as PoolClient;
  }

  /** At once, whatever it is busy with. */
  destroy(): void {
    this.raw.connection.stream.destroy();
    void this.raw.end().catch(() => undefined);
  }
}
