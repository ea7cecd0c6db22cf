import { readFileSync, readdirSync, rmSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { type PostgresServer, startPostgres } from '../../examples/support/postgres-server.js';
import { Lane } from '../../src/util/lane.js';
import { waitFor } from '../support/wait-for.js';
import { DURABLE } from './schema.js';

const FLAGS = {
  max_connections: '200',
  // Without it the machine could lose what PostgreSQL was told is written. kill -9 cannot: the kernel keeps it.
  fsync: 'off',
  full_page_writes: 'off',
  // What a careless administrator sets; the library must turn it on for its own transactions. The writer behind it
  // sleeps long, so that a COMMIT that did not wait is lost for sure.
  synchronous_commit: 'off',
  wal_writer_delay: '10s',
  log_min_messages: 'fatal',
  // The order of commits tells whether a former holder got through behind its successor.
  track_commit_timestamp: 'on',
};

/** A PostgreSQL that is killed again and again, and starts on the same data and the same port. */
export class PostgresUnderFaults {
  private ownConnection: Promise<Client> | undefined;
  private readonly turns = new Lane();

  private constructor(
    private readonly dataDir: string,
    readonly port: number,
    private server: PostgresServer,
  ) {}

  static async start(): Promise<PostgresUnderFaults> {
    const dataDir = join(tmpdir(), `nestjs-idempotency-faults-${randomUUID()}`);
    const port = await freePort();
    return new PostgresUnderFaults(dataDir, port, await launch(dataDir, port));
  }

  /** @param port another one to reach it by: a proxy's */
  url(port = this.port): string {
    const url = new URL(this.server.url);
    url.port = String(port);
    return url.href;
  }

  /** kill -9 of the postmaster and, with it, of all its processes: what is left is what was written. */
  async kill(): Promise<void> {
    const pids = [this.server.pid, ...childrenOf(this.server.pid)];
    pids.forEach(killNow);
    await waitFor(() => pids.every((pid) => !isAlive(pid)), { what: 'the killed PostgreSQL to be gone' });
  }

  async restart(): Promise<void> {
    this.server = await launch(this.dataDir, this.port);
  }

  /** kill -9 of one session's process: PostgreSQL then restarts all of them, since shared memory may be damaged. */
  killBackend(pid: number): boolean {
    const isOurs = childrenOf(this.server.pid).includes(pid);
    if (isOurs) {
      killNow(pid);
    }
    return isOurs;
  }

  async stop(): Promise<void> {
    await (await this.ownConnection)?.end().catch(() => undefined);
    await this.server.stop();
    rmSync(this.server.dataDir, { recursive: true, force: true });
  }

  /** Past every proxy. */
  private async connect(): Promise<Client> {
    const client = new Client({ connectionString: this.url(), application_name: 'fault suite', ...DURABLE });
    // It dies with the server, which is what the suite is about.
    client.on('error', () => {
      this.ownConnection = undefined;
    });
    await client.connect();
    return client;
  }

  /** Runs `work` on the suite's connection, or on a new one when that has died; waits while PostgreSQL is down. */
  run<T>(work: (client: Client) => Promise<T>): Promise<T> {
    return this.turns.run(async () => {
      this.ownConnection ??= waitFor(() => this.connect().catch(() => undefined), {
        what: 'PostgreSQL to answer',
        timeoutMs: 60_000, // recovery from a kill, on a disk that others use as well
      });
      return work(await this.ownConnection);
    });
  }
}

function launch(dataDir: string, port: number): Promise<PostgresServer> {
  const settings = Object.entries(FLAGS).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  // The last -p counts: the launcher's own would be another one after each restart.
  return startPostgres({ dataDir, persistent: true, flags: [...settings, '-p', String(port)] });
}

function childrenOf(parent: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => parentOf(pid) === parent);
}

function parentOf(pid: number): number | undefined {
  try {
    return Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
  } catch {
    return undefined; // it has ended
  }
}

function killNow(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has ended by itself
  }
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  return port;
}
