import type { QueryRunner } from 'typeorm';
import { requestStorage } from '../../util/request-storage.js';
import type { ScopedTransaction } from './transaction-scope.js';
import { transactionControlIn } from './sql-statements.js';

/** What may begin or end a transaction: others need not be read. */
const CONTROL = /^\s*(?:begin|start|commit|end|rollback|abort)\b/i;

/** The runner by which the running flow has begun a transaction of the application's own, outside of any of the library. */
const begunByFlow = requestStorage<QueryRunner>();

/** On whose behalf a runner has begun the application's own transaction: what an interceptor begins is on nobody's. */
const begunFor = new WeakMap<object, ScopedTransaction | undefined>();

/** Runners that have begun one by a statement, of which TypeORM knows nothing. */
const begunBySql = new WeakSet<object>();

/** A runner that is in no transaction of the library sends a statement. */
export function noteStatement(runner: QueryRunner, sql: string, transaction: ScopedTransaction | undefined): void {
  const control = CONTROL.test(sql) && !runner.isTransactionActive ? transactionControlIn(sql) : undefined;
  if (control === undefined) {
    refuseOuterTransaction(runner, sql, transaction);
  } else if (/^(?:begin|start)/i.test(control)) {
    begunBySql.add(runner);
    noteOwnTransaction(runner, transaction);
  } else {
    begunBySql.delete(runner);
  }
}

/** A runner that is in no transaction of the library begins one of its own. */
export function noteOwnTransaction(runner: QueryRunner, transaction: ScopedTransaction | undefined): void {
  begunFor.set(runner, transaction);
  if (transaction === undefined) {
    begunByFlow.enterWith(runner);
  }
}

/**
 * An interceptor that begins a transaction around `@Idempotent()` and hands its manager on: what the handler writes by that
 * would commit without the key, or be undone with it recorded.
 *
 * @throws Error that tells what to do
 */
function refuseOuterTransaction(runner: QueryRunner, sql: string, transaction: ScopedTransaction | undefined): void {
  if (
    transaction?.state === 'open' &&
    isInOne(runner) &&
    begunFor.get(runner) !== transaction &&
    transactionControlIn(sql) === undefined // who has begun it ends it
  ) {
    throw new Error(
      `This QueryRunner's transaction is older than the one of this idempotent request (${transaction.what}), so what it writes would not commit with the key: ` +
        'an interceptor, guard or middleware around @Idempotent() has begun it. Put @Idempotent() below the decorator that attaches it, which has it run inside and join, ' +
        'or leave it out: the handler is in a transaction already, which every repository joins.',
    );
  }
}

/** Whether a transaction of the application's own around the running code keeps a connection, while that waits for one. */
export function keepsConnection(): boolean {
  const runner = begunByFlow.getStore();
  return runner !== undefined && isInOne(runner);
}

function isInOne(runner: QueryRunner): boolean {
  return runner.isTransactionActive || (begunBySql.has(runner) && !runner.isReleased);
}
