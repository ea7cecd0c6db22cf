import { Client, type QueryResultRow } from 'pg';
import { DataSource } from 'typeorm';
import { idempotencyMigrations } from '../migrations/index.js';
import { Effect } from './servers/effect.entity.js';

/** The databases of one run, all on one server. */
export class Databases {
  private number = 0;

  constructor(private readonly serverUrl: string) {}

  /** A new database with the handlers' table and the library's. */
  async create(): Promise<Database> {
    const name = `bench_${process.pid}_${++this.number}`;
    await this.onServer((client) => client.query(`create database ${name}`));
    const url = new URL(this.serverUrl);
    url.pathname = `/${name}`;
    const dataSource = new DataSource({
      type: 'postgres',
      url: url.href,
      entities: [Effect],
      synchronize: true,
      migrations: idempotencyMigrations,
      migrationsRun: true,
    });
    await dataSource.initialize();
    await dataSource.destroy();
    const client = new Client({ connectionString: url.href });
    await client.connect();
    return new Database(url.href, client, () => this.drop(name));
  }

  async version(): Promise<string> {
    return this.onServer(async (client) => {
      const { rows } = await client.query<{ server_version: string }>('show server_version');
      return rows[0]!.server_version;
    });
  }

  private async drop(name: string): Promise<void> {
    await this.onServer((client) => client.query(`drop database ${name} with (force)`));
  }

  private async onServer<T>(work: (client: Client) => Promise<T>): Promise<T> {
    const client = new Client({ connectionString: this.serverUrl });
    await client.connect();
    try {
      return await work(client);
    } finally {
      await client.end();
    }
  }
}

export class Database {
  constructor(
    readonly url: string,
    private readonly client: Client,
    private readonly dropIt: () => Promise<void>,
  ) {}

  async query<Row extends QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]> {
    return (await this.client.query<Row>(sql, values)).rows;
  }

  async number(sql: string): Promise<number> {
    const [row] = await this.query<{ value: string }>(`select (${sql}) as value`);
    return Number(row!.value);
  }

  async drop(): Promise<void> {
    await this.client.end();
    await this.dropIt();
  }

  /**
   * Fills the table as `count` requests with random keys would have. The index of the primary key is made afterwards:
   * random keys one by one into an index of millions take ten times as long.
   */
  async fill(count: number, options: { bodyBytes: number; expired: boolean }): Promise<void> {
    const created = options.expired ? `now() - interval '2 days'` : 'now()';
    await this.client.query('alter table idempotency_keys drop constraint idempotency_keys_pkey');
    await this.client.query(
      `insert into idempotency_keys (scope, key, fingerprint, fingerprint_version, method, path, claim_id,
         response_status, response_headers, response_body, response_bytes, created_at, expires_at)
       select '', gen_random_uuid()::text, sha256(n::text::bytea), 1, 'POST', '/operations', gen_random_uuid(),
         201, '[["Content-Type", "application/json; charset=utf-8"]]', convert_to(repeat('x', $2::int4), 'UTF8'),
         $2::int4, ${created} + n * interval '1 millisecond', ${created} + n * interval '1 millisecond' + interval '1 day'
       from generate_series(1, $1::int8) as n`,
      [count, options.bodyBytes],
    );
    await this.client.query(
      'alter table idempotency_keys add constraint idempotency_keys_pkey primary key (scope, key)',
    );
    await this.client.query('vacuum (analyze) idempotency_keys');
    await this.client.query('checkpoint');
  }
}
