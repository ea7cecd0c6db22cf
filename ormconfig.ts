import { DataSource } from 'typeorm';
import { idempotencyMigrations } from './migrations/index.js';
import { HISTORY_TABLE } from './src/migrate/migration-history.js';

/**
 * The database of this repository's own commands. Both command lines understand it, and each what the other did:
 *
 *   npm run idempotency -- migration:run --data-source ormconfig.ts
 *   node --import @swc-node/register/esm-register node_modules/typeorm/cli.js migration:show -d ormconfig.ts
 */
export default new DataSource({
  type: 'postgres',
  url: process.env.DATABASE_URL,
  migrations: idempotencyMigrations,
  migrationsTableName: HISTORY_TABLE,
});
