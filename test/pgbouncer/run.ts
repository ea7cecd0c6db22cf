/**
 * Runs the e2e suite with PgBouncer in transaction mode between the applications and PostgreSQL, once the doctor has told
 * each of its modes: `npm run test:pgbouncer [-- <jest arguments>]`, or `-- --doctor` for that alone. Needs Debian's package
 * `pgbouncer`, or another one on the PATH.
 */
import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startPostgres } from '../../examples/support/postgres-server.js';
import { runJest } from '../support/run-jest.js';
import { examinePoolers } from './doctor.js';
import { withPgBouncer } from './pgbouncer.js';

async function main(args: string[]): Promise<number> {
  const postgres = await startPostgres({
    dataDir: join(tmpdir(), `nestjs-idempotency-pgbouncer-${randomUUID()}`),
    persistent: false,
    flags: ['-c', 'max_connections=300', '-c', 'fsync=off', '-c', 'full_page_writes=off'],
  });
  try {
    const server = new URL(postgres.url);
    await examinePoolers(server);
    if (args.includes('--doctor')) {
      return 0;
    }
    return await withPgBouncer(server, 'transaction', (port) =>
      runJest(args, { DATABASE_URL: postgres.url, TEST_PGBOUNCER_PORT: String(port) }),
    );
  } finally {
    await postgres.stop();
  }
}

process.exitCode = await main(process.argv.slice(2));
