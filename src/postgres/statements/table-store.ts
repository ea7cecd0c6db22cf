import type { KeyIdentity } from '../../protocol/stored-key.js';
import { lockNumber } from '../lock-number.js';
import type { SearchPathWatch } from '../search-path-watch.js';
import type { Statement } from '../statement-batch.js';
import { StatementPreparation } from '../statement-preparation.js';
import { tablesIn } from '../table-name.js';

/** What the statements of both modes share: the tables they go to, and which of them are prepared. */
export abstract class TableStore {
  protected readonly keys: string;
  protected readonly steps: string;
  protected abstract readonly all: readonly Statement[];

  /** @param isDistributed whether the tables are those of Citus: see {@link KeyTables.isDistributed} */
  constructor(
    private readonly schema?: string,
    protected readonly preparation = new StatementPreparation(),
    protected readonly searchPaths?: SearchPathWatch,
    protected readonly isDistributed = false,
  ) {
    ({ keys: this.keys, steps: this.steps } = tablesIn(schema));
  }

  /** What a connection learns with its first batch. */
  protected get prepared(): readonly Statement[] | undefined {
    return this.preparation.of(this.all);
  }

  /** A collision is a false 409, never a second execution. */
  protected lockOf({ scope, key }: KeyIdentity): string {
    return lockNumber([this.schema ?? '', scope, key]);
  }
}
