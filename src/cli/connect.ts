import { DataSource, type DataSourceOptions } from 'typeorm';
import type { Arguments } from './arguments.js';
import { loadDataSource } from './load-data-source.js';
import { postgresUrls } from './postgres-url.js';
import { UsageError } from './usage-error.js';

type PostgresOptions = Extract<DataSourceOptions, { type: 'postgres' }>;

/** Longer than any handshake takes: past it the host swallows packets, and a deployment should hear of it. */
const CONNECT_TIMEOUT_MS = 10_000;

/** A DataSource of our own, connected: with the options of the user's one, but without anything that acts on its own. */
export async function connect({ url, dataSource }: Arguments): Promise<DataSource> {
  const [first, ...others] = dataSource === undefined ? urlOptions(url) : [await fileOptions(dataSource)];
  return others.length === 0 ? open(first!) : openPrimary([first!, ...others]);
}

/** The first of several servers that takes writes, as libpq has it with `target_session_attrs=read-write`. */
async function openPrimary(servers: PostgresOptions[]): Promise<DataSource> {
  const errors: unknown[] = [];
  for (const options of servers) {
    try {
      const dataSource = await open(options);
      const [{ standby }] = await dataSource.query<[{ standby: boolean }]>('select pg_is_in_recovery() as standby');
      if (!standby) {
        return dataSource;
      }
      await dataSource.destroy();
      errors.push(new Error(`${new URL(options.url!).host} is a read-only server`));
    } catch (error) {
      errors.push(error);
    }
  }
  throw new AggregateError(errors);
}

function open(options: PostgresOptions): Promise<DataSource> {
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

/** What pg goes by where there is no URL. */
const PG_VARIABLES = ['PGHOST', 'PGPORT', 'PGDATABASE', 'PGUSER'] as const;

/** One for each host. */
function urlOptions(flag: string | undefined): PostgresOptions[] {
  const [source, url] = flag === undefined ? ['DATABASE_URL', process.env.DATABASE_URL] : ['--url', flag];
  if (url !== undefined && url !== '') {
    return postgresUrls(source, url).map((each) => ({ type: 'postgres', url: each }));
  }
  if (PG_VARIABLES.some((name) => (process.env[name] ?? '') !== '')) {
    return [{ type: 'postgres' }];
  }
  throw new UsageError(
    'No database: set DATABASE_URL (or PGHOST, PGDATABASE, PGUSER, PGPASSWORD), or give --url or --data-source.',
  );
}

async function fileOptions(file: string): Promise<PostgresOptions> {
  const theirs = await loadDataSource(file);
  // A module that connects while it is loaded would keep this process from ending.
  if (theirs.isInitialized) {
    await theirs.destroy();
  }
  if (theirs.options.type !== 'postgres') {
    throw new UsageError(`--data-source: ${file} is of type "${theirs.options.type}", but only "postgres" will do.`);
  }
  return theirs.options;
}
