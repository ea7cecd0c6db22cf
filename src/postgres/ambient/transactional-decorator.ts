import type { DataSource } from 'typeorm';

/** What `addTransactionalDataSource()` of typeorm-transactional leaves on a DataSource (its src/common/constants.ts). */
const MARK = '@transactional/data-source';

const told = new WeakSet<DataSource>();

/**
 * What to use instead of that which typeorm-transactional cannot keep inside of a request's transaction. Once for each
 * DataSource that it manages, and nothing for others.
 */
export function adviceOnTransactional(dataSource: DataSource): string | undefined {
  if (!Object.hasOwn(dataSource, MARK) || told.has(dataSource)) {
    return undefined;
  }
  told.add(dataSource);
  return (
    'typeorm-transactional manages the DataSource. In an idempotent request its transactions are savepoints of the ' +
    "request's: runOnTransactionCommit() would run before COMMIT, and after a rollback, too: use " +
    'IdempotencyService.afterCommit(). Propagation.REQUIRES_NEW and NOT_SUPPORTED would join: use ' +
    'IdempotencyService.outsideTransaction(). See docs/transactional-decorators.md.'
  );
}
