import { Body, Controller, Post, ServiceUnavailableException } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import { Client } from 'pg';
import { Column, Entity, PrimaryColumn, type Repository } from 'typeorm';
import { Idempotent, IdempotencyContext } from '../../src/index.js';
import { createTestDatabase, databaseUrl, type TestDatabase } from '../support/database.js';
import { type CitusKind, turnTablesIntoCitus, WORKERS } from '../support/citus.js';
import { randomUUID } from 'node:crypto';

/** On another node than most keys. */
@Entity('orders')
export class Order {
  @PrimaryColumn('uuid')
  id!: string;

  @Column('text')
  key!: string;
}

/** Before TypeORM would make it a table of the coordinator. */
export const ORDERS = `create table if not exists orders (id uuid primary key, key text not null);
  select create_distributed_table('orders', 'id', shard_count => 4)`;

@Controller()
export class ShopController {
  constructor(@InjectRepository(Order) private readonly orders: Repository<Order>) {}

  @Post('orders')
  @Idempotent()
  async order(@Body() body: object, @IdempotencyContext() context: IdempotencyContext): Promise<object> {
    const id = randomUUID();
    await this.orders.insert({ id, key: context.key });
    return { id, body };
  }

  @Post('leases')
  @Idempotent({ mode: 'lease', leaseMs: 1_000 })
  async lease(@Body() body: object, @IdempotencyContext() context: IdempotencyContext): Promise<object> {
    const id = await context.transaction('order', async () => {
      const order = { id: randomUUID(), key: context.key };
      await this.orders.insert(order);
      return order.id;
    });
    await context.step('after', () => undefined);
    return { id, body };
  }

  @Post('failing-leases')
  @Idempotent({ mode: 'lease' })
  async failingLease(@IdempotencyContext() context: IdempotencyContext): Promise<never> {
    await context.step('order', () => undefined);
    throw new ServiceUnavailableException();
  }
}

/** A database with keys in tables of this kind. */
export async function databaseOf(kind: CitusKind): Promise<TestDatabase> {
  const database = await createTestDatabase();
  if (kind !== 'distributed') {
    await undistribute(database.url);
    await turnTablesIntoCitus(kind, database.url);
  }
  return database;
}

/** Plain tables again. */
export const undistribute = (url: string): Promise<unknown[]> =>
  rowsOn(url, `select undistribute_table('idempotency_keys'), undistribute_table('idempotency_steps')`);

/** The database as an application sees it that is connected to one node or another. */
export function urlsOf(coordinatorUrl: string): string[] {
  const name = new URL(coordinatorUrl).pathname.slice(1);
  return [coordinatorUrl, ...WORKERS.map((url) => databaseUrl(url, name))];
}

/** The rows of statements, the last one's, on a connection of their own. */
export async function rowsOn<Row>(url: string, sql: string, values: unknown[] = []): Promise<Row[]> {
  const client = new Client(url);
  client.on('error', () => undefined); // the server crashes now and then
  await client.connect();
  try {
    const result = await client.query(sql, values);
    return (Array.isArray(result) ? result.at(-1) : result).rows as Row[];
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** kill -9 of a session's process: the server ends all others, and comes up again from what was written. */
export async function crash(url: string): Promise<void> {
  const victim = new Client(url);
  victim.on('error', () => undefined);
  await victim.connect();
  const { rows } = await victim.query<{ pid: number }>('select pg_backend_pid() as pid');
  await rowsOn(url, `copy (select 1) to program 'kill -9 ${rows[0]!.pid}'`).catch(() => undefined);
  await victim.end().catch(() => undefined);
}
