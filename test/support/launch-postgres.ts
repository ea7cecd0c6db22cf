import { startPostgres } from '../../examples/support/postgres-server.js';

/**
 * A program that uses the launcher, for tests of how it ends: `launch-postgres.ts <data directory> <what then>`, with
 * `stay` it runs until its standard input closes, with `leave` it ends at once. It never calls stop().
 */
const [dataDir = '', then] = process.argv.slice(2);
const { url, pid, dataDir: actualDataDir } = await startPostgres({ dataDir, persistent: then === 'stay' });
process.stdout.write(`${JSON.stringify({ url, pid, dataDir: actualDataDir })}\n`);
if (then === 'stay') process.stdin.resume();
