import type { PoolClient } from 'pg';
import type { QueryRunner } from 'typeorm';
import { OpenQueries, untilAnswered } from './open-queries.js';

/** What TypeORM's PostgresQueryRunner has beyond its public type. */
export interface PostgresQueryRunner extends QueryRunner {
  releasePostgresConnection(error?: Error): Promise<void>;
}

/** What pg's Client has beyond its public type. */
type PipelineClient = PoolClient & { pipeline?: boolean; connection: { stream: { destroy(): void } } };

/** A connection of the pool, held until it is given back or destroyed. TypeORM's runner listens for its errors. */
export class DatabaseConnection {
  private returned = false;
  private open: OpenQueries | undefined;

  constructor(
    readonly runner: PostgresQueryRunner,
    readonly client: PoolClient,
  ) {}

  /** True when the connection broke while it was held: TypeORM's runner then gives it up by itself. */
  get broken(): boolean {
    return this.runner.isReleased && !this.returned;
  }

  /** Whether something runs that a handler has handed to pg's own client. */
  get isLentBusy(): boolean {
    return this.open?.areUnderWay ?? false;
  }

  /** Of a handler that was given pg's client: what it leaves open is closed before the library's own statements. */
  get openQueries(): OpenQueries {
    return (this.open ??= new OpenQueries(this.client));
  }

  /**
   * Resolves once nothing runs that a handler has handed to pg's own client, or never will end. What is left unread is
   * closed for that.
   */
  async untilLeft(): Promise<void> {
    await this.open?.end(false);
  }

  /** The same of whatever runs, at once. */
  async untilAnswered(): Promise<void> {
    await (this.open?.end(true) ?? untilAnswered(this.client));
  }

  /** @throws IdempotencyTransactionFailedException where no statement can be sent any more for what was left open */
  assertFree(): void {
    this.open?.assertNoDeadEnd();
  }

  release(): void {
    this.returned = true;
    this.runner.release().catch(ignored);
  }

  /** Closes the connection: PostgreSQL rolls back what it had open. The pool makes another one. */
  destroy(cause: unknown): void {
    this.returned = true;
    const error = cause instanceof Error ? cause : new Error(String(cause));
    this.runner.releasePostgresConnection(error).catch(ignored);
    const { pipeline, connection } = this.client as PipelineClient;
    if (pipeline) {
      connection.stream.destroy(); // pg itself waits for the answers to all that was sent, however long that takes
    }
  }
}

/** Somebody else has given it back already: nothing is left to do, and nobody to be told. */
function ignored(): void {}

/** One statement, as a QueryRunner takes it. */
export function queryBy(
  runner: QueryRunner,
  sql: string,
  parameters?: unknown[],
  structured?: boolean,
): Promise<unknown> {
  return structured ? runner.query(sql, parameters, true) : runner.query(sql, parameters);
}
