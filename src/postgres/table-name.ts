/** Quotes an SQL identifier (PostgreSQL manual, 4.1.1): the only thing that is ever spliced into a statement. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** The table's name as it goes into SQL text; without a schema it follows the connection's `search_path`. */
export function tableName(table: string, schema?: string): string {
  return schema === undefined ? quoteIdentifier(table) : `${quoteIdentifier(schema)}.${quoteIdentifier(table)}`;
}

/** PostgreSQL would cut a longer one off without a word, and everybody else look for the whole. */
export function isSchemaName(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && Buffer.byteLength(value) <= 63 && !value.includes('\0');
}

export const SCHEMA_NAME = 'the name of a PostgreSQL schema, 1 to 63 bytes';

/** The table of keys and recorded responses. */
export const KEYS_TABLE = 'idempotency_keys';

/** The table of finished steps (lease mode). */
export const STEPS_TABLE = 'idempotency_steps';

/** Both, as they go into SQL text. */
export function tablesIn(schema?: string): { keys: string; steps: string } {
  return { keys: tableName(KEYS_TABLE, schema), steps: tableName(STEPS_TABLE, schema) };
}
