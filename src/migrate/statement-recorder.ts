import type { DataSource } from 'typeorm';
import { dataSourceOf } from '../postgres/data-source-of.js';
import type { MigrationRunner } from '../postgres/ddl/migration-runner.js';

/** Stands in for the query runner of a migration: keeps the statements, with their values written out, and runs none. */
export class StatementRecorder implements MigrationRunner {
  readonly isOwn = true;
  readonly statements: string[] = [];

  constructor(private readonly runner: MigrationRunner) {}

  get dataSource(): DataSource {
    return dataSourceOf(this.runner);
  }

  /** A question is asked: what is there decides what would be done. */
  async query(sql: string, parameters: unknown[] = []): Promise<unknown> {
    if (/^\s*select\b/i.test(sql)) {
      return this.runner.query(sql, parameters);
    }
    // What is quoted stays as it is: it may hold a dollar sign of its own.
    const statement = sql.replaceAll(/"[^"]*"|'[^']*'|\$(\d+)/g, (match, n?: string) =>
      n === undefined ? match : quoteLiteral(String(parameters[Number(n) - 1])),
    );
    this.statements.push(statement.trim());
    return undefined;
  }
}

/** For text that is read before it is run: what runs here is always bound. */
function quoteLiteral(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}
