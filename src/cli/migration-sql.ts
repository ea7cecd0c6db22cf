import { Migrator } from '../migrate/migrate.js';
import { print, printJson, type CommandContext } from './command.js';

const ABOUT_PARTITIONS = `-- Fills new tables beside the old ones while these serve requests, then exchanges them: from the
-- second "begin" to its "commit" requests wait. Run it with psql -f, without --single-transaction; migration:sql with
-- the other number of --partitions prints the way back. Own triggers, policies and grants on columns do not come along.
-- To give up before the second "begin": drop the tables *_next, and the functions *_relay with CASCADE.
`;

/** Comments aside the output is plain SQL: `nestjs-idempotency migration:sql | psql -v ON_ERROR_STOP=1 ...` */
export async function migrationSql({ dataSource, schema, partitions, json }: CommandContext): Promise<void> {
  const migrator = new Migrator(dataSource, schema);
  const statements = await (partitions === undefined ? migrator.sql() : migrator.partitionSql(partitions));
  if (json) {
    return printJson({ statements });
  }
  if (partitions !== undefined && statements.length > 0) {
    print(ABOUT_PARTITIONS);
  }
  for (const statement of statements) {
    print(`${statement};
`);
  }
  if (statements.length === 0) {
    print('-- nothing to apply');
  }
}
