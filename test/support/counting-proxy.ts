import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { Pool } from 'pg';

/** Counts how often the client speaks after the server has: round trips, as a network sees them. */
export class CountingProxy {
  flights = 0;
  /** Connections up to this number are told nothing of the server any more, not even its end. */
  private swallowed = 0;
  connections = 0;
  /** Has the server speak Vietnamese, where "ERROR" takes as many bytes. */
  translatesErrors = false;
  private readonly sockets: Socket[] = [];
  private readonly server: Server;
  /** One connection, through the proxy. */
  readonly pool: Pool;

  private constructor(
    private readonly target: URL,
    server: Server,
  ) {
    this.server = server.on('connection', (client: Socket) => this.pass(client));
    this.pool = new Pool({ connectionString: this.url, max: 1 });
  }

  static async start(databaseUrl: string): Promise<CountingProxy> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new CountingProxy(new URL(databaseUrl), server);
  }

  get url(): string {
    const url = new URL(this.target);
    url.port = String((this.server.address() as AddressInfo).port);
    return url.href;
  }

  /** Round trips of `work`. */
  async count(work: () => Promise<unknown>): Promise<number> {
    const before = this.flights;
    await work();
    return this.flights - before;
  }

  /** Loses all that comes from the server, on the connections that there are: as a network would. */
  swallowAnswers(): void {
    this.swallowed = this.connections;
  }

  async stop(): Promise<void> {
    await this.pool.end();
    this.sockets.forEach((socket) => socket.destroy());
    this.server.close();
  }

  private pass(client: Socket): void {
    const server = connect(Number(this.target.port), this.target.hostname);
    this.sockets.push(client, server);
    const number = ++this.connections;
    let spoke: 'client' | 'server' = 'server';
    client.on('data', (bytes) => {
      if (spoke === 'server') this.flights++;
      spoke = 'client';
      server.write(bytes);
    });
    server.on('data', (bytes) => {
      spoke = 'server';
      if (number > this.swallowed) client.write(this.translatesErrors ? translated(bytes) : bytes);
    });
    client.on('close', () => server.destroy());
    server.on('close', () => {
      if (number > this.swallowed) client.destroy();
    });
    for (const socket of [client, server]) socket.on('error', () => undefined);
  }
}

/** The severity is in an error message twice: as a person may read it, and as it is. */
function translated(bytes: Buffer): Buffer {
  const at = bytes.indexOf('SERROR\0VERROR\0');
  return at < 0
    ? bytes
    : Buffer.concat([bytes.subarray(0, at), Buffer.from('SLỖI'), translated(bytes.subarray(at + 6))]);
}
