import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { DataSource } from 'typeorm';
import { type PostgresServer, startPostgres } from '../../examples/support/postgres-server.js';
import { idempotencyMigrations } from '../../migrations/index.js';
import { APPLICATION_NAME } from './app/protocol.js';
import type { Sample } from './verdict.js';

const FLAGS = {
  // Nothing in there has to survive a crash of the machine.
  fsync: 'off',
  full_page_writes: 'off',
  // By default a minute: a table that turns over within seconds would take most of the run to reach its size.
  autovacuum_naptime: '5s',
};

/** The soak's own PostgreSQL, and its eyes in there. */
export class SoakDatabase {
  private constructor(
    private readonly server: PostgresServer,
    private readonly client: Client,
  ) {}

  static async start(accounts: number): Promise<SoakDatabase> {
    const server = await startPostgres({
      dataDir: join(tmpdir(), `nestjs-idempotency-soak-${randomUUID()}`),
      persistent: false,
      flags: Object.entries(FLAGS).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    });
    const dataSource = await new DataSource({
      type: 'postgres',
      url: server.url,
      migrations: idempotencyMigrations,
    }).initialize();
    await dataSource.runMigrations();
    await dataSource.query(`
      create table accounts (id text primary key, balance int not null);
      insert into accounts select 'account-' || n, 0 from generate_series(0, ${accounts - 1}) n`);
    await dataSource.destroy();
    const client = new Client(server.url);
    await client.connect();
    return new SoakDatabase(server, client);
  }

  get url(): string {
    return this.server.url;
  }

  async look(): Promise<Pick<Sample, 'sessions' | 'rows' | 'relationBytes'>> {
    const { rows } = await this.client.query<Pick<Sample, 'sessions' | 'rows' | 'relationBytes'>>(
      `select (select count(*)::int4 from pg_stat_activity where application_name = $1) as sessions,
        (select count(*)::int4 from idempotency_keys) as rows,
        pg_total_relation_size('idempotency_keys')::float8 as "relationBytes"`,
      [APPLICATION_NAME],
    );
    return rows[0]!;
  }

  /** How many executions have committed. */
  async executions(): Promise<number> {
    const { rows } = await this.client.query<{ sum: number }>('select sum(balance)::int4 as sum from accounts');
    return rows[0]!.sum;
  }

  /** Transactions and locks of the instances: none, when no request is under way. */
  async leftovers(): Promise<string[]> {
    const { rows } = await this.client.query<{ what: string }>(
      `select format('session %s is %s: %s', pid, state, left(query, 80)) as what
       from pg_stat_activity where application_name = $1 and state <> 'idle'
       union all
       select format('session %s holds an advisory lock', pid) from pg_locks where locktype = 'advisory'`,
      [APPLICATION_NAME],
    );
    return rows.map(({ what }) => what);
  }

  async stop(): Promise<void> {
    await this.client.end();
    await this.server.stop();
  }
}
