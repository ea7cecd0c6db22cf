import type { CommandContext } from './command.js';
import { dataSourceSchema } from '../postgres/data-source-schema.js';
import { findKeyTables, isDistributed } from '../postgres/statements/key-tables.js';

type Connected = Pick<CommandContext, 'dataSource' | 'schema'>;

/**
 * The schema in which the tables are, under the name that the applications know it by: the locks that are made of it are
 * one for all. Where they are not there, the one in which they were looked for.
 */
export async function schemaOfTables(context: Connected): Promise<string | undefined> {
  return (await placeOfTables(context)).schema;
}

/** The same, and whether it is Citus that has them. */
export async function placeOfTables({ dataSource, schema }: Connected) {
  const wanted = schema ?? dataSourceSchema(dataSource);
  const tables = await findKeyTables(dataSource, wanted);
  return { schema: tables?.schema ?? wanted, onCitus: tables !== undefined && isDistributed(tables) };
}
