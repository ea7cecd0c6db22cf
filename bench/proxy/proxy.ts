import { join } from 'node:path';
import { ChildServer } from '../child-server.js';

export type ProxyCommand = { do: 'round trips' };

/** The proxy between a server under test and PostgreSQL, in a process of its own. */
export class Proxy {
  private constructor(private readonly child: ChildServer<ProxyCommand>) {}

  static async start(entry: string, targetPort: number, delayMs: number): Promise<Proxy> {
    return new Proxy(
      await ChildServer.start(join(entry, '../../proxy/main.js'), [String(targetPort), String(delayMs)]),
    );
  }

  /** The same database, by way of the proxy. */
  through(databaseUrl: string): string {
    const url = new URL(databaseUrl);
    url.hostname = '127.0.0.1';
    url.port = String(this.child.port);
    return url.href;
  }

  /** Since the start: how often something was answered that went out before. */
  async roundTrips(): Promise<number> {
    return (await this.child.ask({ do: 'round trips' })) as number;
  }

  stop(): Promise<void> {
    return this.child.stop();
  }
}
