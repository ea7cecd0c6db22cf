import { DEFAULT_OPTIONS } from '../protocol/options.js';

export const HELP = `Usage: nestjs-idempotency <command> [options]

Commands:
  migration:run     apply the pending migrations of the library's table
  migration:revert  take back the newest one (this drops the table and every recorded response)
  migration:show    list the migrations, [X] applied or [ ] pending
  migration:sql     print the SQL that migration:run would execute, and run none of it
  purge             delete expired keys in small batches

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
  -h, --help             print this
  -v, --version          print the version

Every command may run many times at once. What was applied is recorded in the table
idempotency_migrations beside the library's own.

Exit codes:
  0  done; also when there was nothing to do
  1  failed: the database or a file said no; safe to run again once that is mended
  2  wrong usage: unknown command or option, nothing to connect to`;
