import { randomUUID } from 'node:crypto';
import { Client, type QueryResultRow } from 'pg';
import { databaseUrl, type TestDatabase } from './database.js';

/** A database with nothing in it, for what has to start before the migrations. */
export async function createEmptyDatabase(): Promise<TestDatabase> {
  const server = process.env['TEST_DATABASE_URL'];
  if (!server) throw new Error('TEST_DATABASE_URL is not set. Run the tests with "npm test".');

  const name = `idempotency_empty_${randomUUID().replaceAll('-', '')}`;
  await queryOn(server, `create database ${name} template template0 ${process.env['TEST_DATABASE_STRATEGY'] ?? ''}`);
  return {
    name,
    url: databaseUrl(server, name),
    drop: async () => void (await queryOn(server, `drop database if exists ${name} with (force)`)),
  };
}

/** One after the other, on a connection of their own: Citus hands some on by the text that they came in. */
export async function queriesOn(url: string, statements: readonly string[]): Promise<void> {
  const client = new Client(url);
  await client.connect();
  try {
    for (const sql of statements) {
      await client.query(sql);
    }
  } finally {
    await client.end();
  }
}

/** The rows of one statement, on a connection of its own. */
export async function queryOn<Row extends QueryResultRow>(
  url: string,
  sql: string,
  parameters: unknown[] = [],
): Promise<Row[]> {
  const client = new Client(url);
  await client.connect();
  try {
    // Without parameters the text may hold several statements; the result is then an array, and nobody reads it.
    const { rows } = await (parameters.length === 0 ? client.query<Row>(sql) : client.query<Row>(sql, parameters));
    return rows;
  } finally {
    await client.end();
  }
}
