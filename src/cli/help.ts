import { DEFAULT_OPTIONS } from '../protocol/options.js';

export const HELP = `Usage: nestjs-idempotency <command> [options]

Commands:
  migration:run     apply the pending migrations of the library's table
  migration:revert  take back the newest one (this drops the table and every recorded response)
  migration:show    list the migrations, [X] applied or [ ] pending
  migration:sql     print the SQL that migration:run would execute, and run none of it
  stats             rows by state, route, scope and age, size on disk, purge lag, oldest in flight
  list              keys with their states, page by page
  show <scope> <key>     one key, with the steps of its attempts; the scope that all share is ''
  forget <scope> <key>   delete a key: a retry runs its handler again
  release <scope> <key>  let an interrupted operation go on at the next retry
  resolve <scope> <key>  record the response of an interrupted operation
  purge             delete expired keys in small batches
  doctor            look for what is known to go wrong, each with its remedy

Options:
  --url <url>            PostgreSQL to connect to, as postgres://user:password@host:5432/database.
                         Better the variable DATABASE_URL: a process list does not show it. Of several
                         hosts (one:5432,two:5432) it is the first that takes writes. Without a URL
                         PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSWORD count
  --data-source <file>   connect as the TypeORM DataSource that this module exports (.js, .mjs, or
                         .ts where Node can load it). Only its connection and schema are used
  --schema <name>        schema of the library's table, as in the module's option; migration:run
                         creates it when it is missing (default: the DataSource's, else search_path)
  --batch-size <number>  purge: rows per DELETE, 1 to 100000 (default: ${DEFAULT_OPTIONS.purge.batchSize})
  --partitions <number>  migration:sql: print instead how the tables become ones of that many HASH
                         partitions, 2 to 1000, or with 0 plain ones again
  --dry-run              purge: only say how many
  --state <state>        list: completed, running, interrupted, released, steps-changed or
                         observed (by observe mode alone; replayed to nobody)
  --method, --path, --scope <text>
                         list: of this method, path from its beginning, and scope
  --expired              list: also those that have expired
  --limit <number>       list: keys a page (default: 50); stats: routes and scopes (default: 10)
  --after <place>        list: what comes behind the page that has said so
  --body                 show: headers and body of the response, too
  --status <number>      resolve: 200 to 499
  --response <text>      resolve: the body, as JSON where it is (default: none)
  --pool-size, --instances <number>
                         doctor: of the application, to be compared with max_connections
  -y, --yes              forget, release, resolve: do not ask
  --json                 print JSON, one document
  -h, --help             print this
  -v, --version          print the version

Every command may run many times at once. What was applied is recorded in the table
idempotency_migrations beside the library's own. What release and resolve leave is kept for 24 hours.
Tables have columns on a terminal, elsewhere tabs and no header.

Exit codes:
  0  done; also when there was nothing to do
  1  failed: the database or a file said no; safe to run again once that is mended. Of doctor: a finding
  2  wrong usage: unknown command or option, nothing to connect to
  3  show, forget, release, resolve: there is no such key, or none that it can be done to`;
