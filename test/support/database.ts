import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Client, type DatabaseError } from 'pg';
import { MANAGED_BY_DEFAULT, TRIGGERS_ALLOWED, WORKERS } from './citus.js';

export interface TestDatabase {
  url: string;
  name: string;
  /** Ends the connections to it that do not end by themselves. */
  drop(): Promise<void>;
}

/** "source database is being accessed by other users": somebody looks at the template, or a maintenance worker does. */
const OBJECT_IN_USE = '55006';

/** A database of the caller's own, with the library's migrations applied. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const name = `idempotency_test_${randomUUID().replaceAll('-', '')}`;
  await onServers((client) => copyTemplate(client, name, performance.now() + 10_000));
  if (WORKERS.length > 0) {
    for (const setting of [MANAGED_BY_DEFAULT, TRIGGERS_ALLOWED]) {
      await onServer(serverUrl(), (client) => client.query(`alter database ${name} set ${setting}`));
    }
  }
  return {
    name,
    url: databaseUrl(serverUrl(), name),
    drop: () =>
      onServers(async (client) => {
        await sessionsHaveEnded(client, name, performance.now() + 500);
        await dropDatabase(client, name, performance.now() + 10_000);
      }),
  };
}

/** The URL of another database on the same server. */
export function databaseUrl(url: string, name: string): string {
  const result = new URL(url);
  result.pathname = name;
  return result.href;
}

async function copyTemplate(client: Client, name: string, deadline: number): Promise<void> {
  try {
    const how = process.env['TEST_DATABASE_STRATEGY'] ?? '';
    await client.query(`create database ${name} template ${environment('TEST_DATABASE_TEMPLATE')} ${how}`);
  } catch (error) {
    if ((error as DatabaseError).code !== OBJECT_IN_USE || performance.now() > deadline) throw error;
    await delay(50);
    await copyTemplate(client, name, deadline);
  }
}

/** Of a Citus cluster a session, or a prepared transaction, may be a moment longer about ending than is waited for. */
async function dropDatabase(client: Client, name: string, deadline: number): Promise<void> {
  try {
    await client.query(`drop database if exists ${name} with (force)`);
  } catch (error) {
    if ((error as DatabaseError).code !== OBJECT_IN_USE || performance.now() > deadline) throw error;
    await delay(50);
    await dropDatabase(client, name, deadline);
  }
}

/** A pool says that it has ended while its last session still ends: what kills that one is an error without a listener. */
async function sessionsHaveEnded(client: Client, database: string, deadline: number): Promise<void> {
  const sessions = "select from pg_stat_activity where datname = $1 and backend_type = 'client backend'";
  while (performance.now() < deadline && (await client.query(sessions, [database])).rowCount) {
    await delay(5);
  }
}

/** Of a Citus cluster each has databases of its own. */
async function onServers(work: (client: Client) => Promise<unknown>): Promise<void> {
  await Promise.all([serverUrl(), ...WORKERS].map((url) => onServer(url, work)));
}

async function onServer(url: string, work: (client: Client) => Promise<unknown>): Promise<void> {
  const client = new Client(url);
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

function serverUrl(): string {
  return environment('TEST_DATABASE_URL');
}

function environment(name: string): string {
  const value = process.env[name];
  if (!value)
    throw new Error(`${name} is not set. Run the tests with "npm test", whose global set-up starts a server.`);
  return value;
}
