import type { DataSource } from 'typeorm';

/**
 * The schema that the DataSource was configured with; none leaves it to the connection's `search_path`.
 *
 * Not `driver.schema`: TypeORM fills that in with the current schema once it has connected.
 */
export function dataSourceSchema({ options }: DataSource): string | undefined {
  if (options.type !== 'postgres') {
    throw new TypeError(`nestjs-idempotency needs a DataSource of type "postgres", but this one is "${options.type}".`);
  }
  return options.schema;
}
