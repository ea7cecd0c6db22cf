import type { PoolClient } from 'pg';
import type { KeyIdentity } from '../../protocol/stored-key.js';
import { lockNumber } from '../lock-number.js';
import type { SearchPathWatch } from '../search-path-watch.js';
import type { BoundStatement, Statement, StatementResult } from '../statement-batch.js';
import { StatementRunner } from '../statement-runner.js';
import { KEYS_TABLE, STEPS_TABLE, tableName } from '../table-name.js';

/** What the statements of both modes share: the tables they go to, and how a batch of them is run. */
export abstract class TableStore {
  protected readonly keys: string;
  protected readonly steps: string;
  /** All of them: a connection learns them with its first batch. */
  protected abstract readonly prepared: readonly Statement[];

  /** @param isDistributed whether the tables are those of Citus: see {@link KeyTables.isDistributed} */
  constructor(
    private readonly schema?: string,
    protected readonly runner = new StatementRunner(),
    protected readonly searchPaths?: SearchPathWatch,
    protected readonly isDistributed = false,
  ) {
    this.keys = tableName(KEYS_TABLE, schema);
    this.steps = tableName(STEPS_TABLE, schema);
  }

  protected run(client: PoolClient, batch: BoundStatement[]): Promise<StatementResult[]> {
    return this.runner.run(client, batch, this.prepared);
  }

  /** A collision is a false 409, never a second execution. */
  protected lockOf({ scope, key }: KeyIdentity): string {
    return lockNumber([this.schema ?? '', scope, key]);
  }
}
