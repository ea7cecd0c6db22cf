/**
 * Runs the e2e suite and that of lease mode with the library's tables distributed over a Citus cluster, and then storms and
 * crashes on every kind of its tables: `npm run test:citus [-- --measure [<requests>] | <jest arguments>]`. The cluster is that of CITUS_URL, its
 * coordinator, and CITUS_WORKERS, with commas between them; both with a superuser. Its servers are crashed.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { runJest } from '../support/run-jest.js';
import { KEEPS_TO_PLAIN_TABLES } from './plain-tables.js';

const HOW_TO = `npm run test:citus needs a Citus cluster whose servers may crash: one that is made for it. With Docker:

  docker network create citus
  for node in coordinator worker1 worker2; do
    docker run -d --name $node --network citus -e POSTGRES_PASSWORD=postgres -e POSTGRES_HOST_AUTH_METHOD=trust \\
      citusdata/citus:13 -c wal_level=logical -c max_connections=300 -c max_prepared_transactions=300 \\
      -c citus.max_client_connections=-1
  done
  address() { docker inspect -f '{{.NetworkSettings.Networks.citus.IPAddress}}' $1; }
  export CITUS_URL=postgres://postgres:postgres@$(address coordinator)/postgres
  export CITUS_WORKERS=postgres://postgres:postgres@$(address worker1)/postgres,postgres://postgres:postgres@$(address worker2)/postgres
  npm run test:citus
`;

async function main(args: string[]): Promise<number> {
  const { CITUS_URL, CITUS_WORKERS } = process.env;
  if (!CITUS_URL || !CITUS_WORKERS) {
    process.stderr.write(HOW_TO);
    return 1;
  }
  if (args[0] === '--measure') {
    return measure(args[1] ?? '', CITUS_URL, CITUS_WORKERS);
  }
  const environment = { DATABASE_URL: CITUS_URL, TEST_CITUS_WORKERS: CITUS_WORKERS, TEST_CITUS_KIND: 'distributed' };
  const together = ['--config', 'test/jest.citus.config.js'];
  const e2e = ['test/e2e', '--maxWorkers=2', '--testPathIgnorePatterns', ...KEEPS_TO_PLAIN_TABLES];
  for (const run of args.length > 0 ? [args] : [e2e, together]) {
    const code = await runJest(run, environment);
    if (code !== 0) {
      return code;
    }
  }
  return 0;
}

/** In a process of its own: what the tests know of the cluster they read where they are loaded. */
async function measure(requests: string, coordinator: string, workers: string): Promise<number> {
  const script = ['--import', '@swc-node/register/esm-register', 'test/citus/measure.ts', requests];
  const environment = { ...process.env, DATABASE_URL: coordinator, TEST_CITUS_WORKERS: workers };
  const child = spawn(process.execPath, script, { stdio: 'inherit', env: environment });
  const [code] = (await once(child, 'exit')) as [number | null];
  return code ?? 1;
}

process.exitCode = await main(process.argv.slice(2));
