import { hideValues } from './sqlstate.js';

/** Anything that runs SQL text: a TypeORM DataSource, EntityManager or QueryRunner. */
export interface Queryable {
  query(sql: string, parameters?: unknown[]): Promise<unknown>;
}

/** The rows of a statement of this library that runs by itself. */
export async function rowsOf<Row>(db: Queryable, sql: string, parameters?: unknown[]): Promise<Row[]> {
  try {
    return (await db.query(sql, parameters)) as Row[];
  } catch (error) {
    hideValues(error);
    throw error;
  }
}
