import type { DataSource } from 'typeorm';

/** The DataSource of a manager, a runner or a driver; what 1.0 calls `dataSource` was `connection` before. */
export function dataSourceOf(owner: object): DataSource {
  const { dataSource, connection } = owner as { dataSource?: DataSource; connection?: DataSource };
  return (dataSource ?? connection)!;
}
