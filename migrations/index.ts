import type { Migration } from '../src/postgres/ddl/migration-runner.js';
import { CreateIdempotencyKeys1763683200000 } from './1763683200000-create-idempotency-keys.js';
import { AddLeasesAndSteps1763769600000 } from './1763769600000-add-leases-and-steps.js';
import { AddAttention1763856000000 } from './1763856000000-add-attention.js';
import { AddTraceContext1763942400000 } from './1763942400000-add-trace-context.js';

export type IdempotencyMigration = new (schema?: string) => Migration;

/**
 * The migrations of the library's tables, in the DataSource's own schema, oldest first.
 *
 * @example
 * new DataSource({ ..., migrations: [...idempotencyMigrations, ...yours] })
 */
export const idempotencyMigrations: IdempotencyMigration[] = [
  CreateIdempotencyKeys1763683200000,
  AddLeasesAndSteps1763769600000,
  AddAttention1763856000000,
  AddTraceContext1763942400000,
];

/**
 * The same for the module's `schema` option: the tables go into `schema`, which is created when it is missing.
 *
 * TypeORM knows a migration by its name alone. Here the name carries the schema, so that a DataSource can have several,
 * and so that naming a schema later makes the tables there instead of passing for done.
 *
 * @example
 * new DataSource({ ..., migrations: [...idempotencyMigrationsIn('infra'), ...yours] })
 */
export function idempotencyMigrationsIn(schema: string): IdempotencyMigration[] {
  return idempotencyMigrations.map(
    (Migration) =>
      class extends Migration {
        override readonly name = nameIn(schema, new Migration().name);

        constructor() {
          super(schema);
        }
      },
  );
}

/** `Create1763683200000` in `infra` is `Create_infra_1763683200000`: the timestamp has to stay last. */
function nameIn(schema: string, name: string): string {
  return name.replace(/\d{13}$/, (timestamp) => `_${schema}_${timestamp}`);
}
