import { DataSource, type DataSourceOptions } from 'typeorm';
import type { Arguments } from './arguments.js';
import { loadDataSource } from './load-data-source.js';
import { assertPostgresUrl } from './postgres-url.js';
import { UsageError } from './usage-error.js';

type PostgresOptions = Extract<DataSourceOptions, { type: 'postgres' }>;

/** Longer than any handshake takes: past it the host swallows packets, and a deployment should hear of it. */
const CONNECT_TIMEOUT_MS = 10_000;

/** A DataSource of our own, connected: with the options of the user's one, but without anything that acts on its own. */
export async function connect({ url, dataSource }: Arguments): Promise<DataSource> {
  const options = dataSource === undefined ? urlOptions(url) : await fileOptions(dataSource);
  return new DataSource({
    applicationName: 'nestjs-idempotency',
    connectTimeoutMS: CONNECT_TIMEOUT_MS,
    ...options,
    // A replica that is down must not stop a command that only talks to the primary.
    replication: options.replication && { ...options.replication, slaves: [] },
    poolSize: 1,
    entities: [],
    subscribers: [],
    migrations: [],
    migrationsRun: false,
    synchronize: false,
    dropSchema: false,
    installExtensions: false,
    extensions: [],
    cache: false,
    logging: false,
    logger: undefined,
  }).initialize();
}

function urlOptions(flag: string | undefined): PostgresOptions {
  const [source, url] = flag === undefined ? ['DATABASE_URL', process.env.DATABASE_URL] : ['--url', flag];
  if (url === undefined || url === '') {
    throw new UsageError('No database: set DATABASE_URL, or give --url or --data-source.');
  }
  assertPostgresUrl(source, url);
  return { type: 'postgres', url };
}

async function fileOptions(file: string): Promise<PostgresOptions> {
  const theirs = await loadDataSource(file);
  // A module that connects while it is loaded would keep this process from ending.
  if (theirs.isInitialized) await theirs.destroy();
  if (theirs.options.type !== 'postgres') {
    throw new UsageError(`--data-source: ${file} is of type "${theirs.options.type}", but only "postgres" will do.`);
  }
  return theirs.options;
}
