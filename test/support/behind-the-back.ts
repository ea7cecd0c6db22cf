import { type PoolClient, Query } from 'pg';
import type { DataSource } from 'typeorm';

/** Sends SQL that nobody has seen before it is on the wire, where all else that ends a transaction is refused. */
export async function behindTheBack(dataSource: DataSource, sql: string): Promise<void> {
  const client = (await dataSource.createQueryRunner().connect()) as PoolClient;
  await new Promise<void>((resolve, reject) => {
    const query = new Query('select 1', (error) => (error ? reject(error) : resolve()));
    const submit = (connection: { query(text: string): void }): void => connection.query(sql);
    client.query(Object.assign(query, { submit }));
  });
}
