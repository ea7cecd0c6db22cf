import { Migrator } from '../migrate/migrate.js';
import { print, type CommandContext } from './command.js';

/** Comments aside the output is plain SQL: `nestjs-idempotency migration:sql | psql -v ON_ERROR_STOP=1 ...` */
export async function migrationSql({ dataSource, schema }: CommandContext): Promise<void> {
  const statements = await new Migrator(dataSource, schema).sql();
  for (const statement of statements) {
    print(`${statement};\n`);
  }
  if (statements.length === 0) {
    print('-- nothing to apply');
  }
}
