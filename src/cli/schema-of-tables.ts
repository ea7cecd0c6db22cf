import type { CommandContext } from './command.js';
import { dataSourceSchema } from '../postgres/data-source-schema.js';
import { findKeyTables } from '../postgres/statements/key-tables.js';

/**
 * The schema in which the tables are, under the name that the applications know it by: the locks that are made of it are
 * one for all. Where they are not there, the one in which they were looked for.
 */
export async function schemaOfTables({ dataSource, schema }: Pick<CommandContext, 'dataSource' | 'schema'>) {
  const wanted = schema ?? dataSourceSchema(dataSource);
  return (await findKeyTables(dataSource, wanted))?.schema ?? wanted;
}
