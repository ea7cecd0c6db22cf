import { inspect } from 'node:util';
import type { ModuleRef } from '@nestjs/core';
import { getDataSourceToken } from '@nestjs/typeorm';
import type { DataSource } from 'typeorm';
import { IdempotencyOptionError } from './options-validation.js';
import { adviceOnTransactional } from './postgres/ambient/transactional-decorator.js';
import { dataSourceSchema } from './postgres/data-source-schema.js';
import { adviceOnPlainTables, findingOnReplicas } from './postgres/statements/citus-tables.js';
import { assertHoldsAnyText, assertUsable, findKeyTables, type KeyTables } from './postgres/statements/key-tables.js';
import { KEYS_TABLE, tableName } from './postgres/table-name.js';
import { type IdempotencyModuleOptions } from './protocol/options.js';
import { otherTypeOrm } from './two-copies.js';

/** @throws Error, IdempotencyOptionError */
export function findDataSource(moduleRef: ModuleRef, name: IdempotencyModuleOptions['dataSource']): DataSource {
  let dataSource: DataSource;
  try {
    dataSource = moduleRef.get<DataSource>(getDataSourceToken(name), { strict: false });
  } catch (cause) {
    const twoCopies = otherTypeOrm();
    if (twoCopies !== undefined) {
      throw new Error(`IdempotencyModule: its DataSource cannot be found, since ${twoCopies}`, { cause });
    }
    throw new IdempotencyOptionError(
      name === undefined
        ? 'IdempotencyModule: there is no default DataSource. Import TypeOrmModule.forRoot(), or name yours by the option `dataSource`.'
        : `IdempotencyModule: option 'dataSource' names '${name}', but no DataSource of that name was given to TypeOrmModule.forRoot().`,
      { cause },
    );
  }
  if (dataSource.options.type !== 'postgres') {
    throw new IdempotencyOptionError(
      `IdempotencyModule: the DataSource is of type '${dataSource.options.type}', but keys are kept in PostgreSQL. Name a DataSource of type 'postgres' by the option \`dataSource\`.`,
    );
  }
  return dataSource;
}

/**
 * Where keys can be kept.
 *
 * @throws Error that says what to run
 */
export async function findTables(
  dataSource: DataSource,
  givenSchema: string | undefined,
  localWrites: boolean,
): Promise<KeyTables> {
  const schema = givenSchema ?? dataSourceSchema(dataSource);
  const tables = await findKeyTables(dataSource, schema).catch(cannotUse);
  if (tables === undefined) {
    const option = schema === undefined ? '' : ` --schema ${shellWord(schema)}`;
    const migrations =
      givenSchema === undefined ? 'idempotencyMigrations' : `idempotencyMigrationsIn(${inspect(givenSchema)})`;
    throw new Error(
      `IdempotencyModule: the table ${tableName(KEYS_TABLE, schema)}, or a later one, is not there. Create them by "npx nestjs-idempotency migration:run${option}" ` +
        `(with DATABASE_URL or --url), or add \`...${migrations}\` from 'nestjs-idempotency/migrations' to your DataSource's \`migrations\`.`,
    );
  }
  await assertUsable(dataSource, tables, localWrites).catch(cannotUse);
  await assertHoldsAnyText(dataSource).catch(cannotUse);
  return tables;
}

/** What is allowed, but seldom meant. */
export async function adviceAtBoot(dataSource: DataSource, { citus, schema }: KeyTables): Promise<string[]> {
  const replicas = citus && findingOnReplicas(citus, schema);
  const advice = [
    adviceOnTransactional(dataSource),
    replicas && `${replicas.problem}. ${replicas.remedy}`,
    citus?.keysElsewhere === true && (await adviceOnPlainTables(dataSource, entityTablesOf(dataSource))),
  ];
  return advice.filter((each) => typeof each === 'string');
}

function entityTablesOf({ entityMetadatas }: DataSource): string[] {
  return entityMetadatas.map(({ tableName: table, schema }) => tableName(table, schema));
}

/** @throws Error always */
function cannotUse(cause: Error): never {
  throw new Error(`IdempotencyModule: ${cause.message}`, { cause });
}

/** As a shell takes it for one word, whatever is in it. */
function shellWord(text: string): string {
  return /^[\w.-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
