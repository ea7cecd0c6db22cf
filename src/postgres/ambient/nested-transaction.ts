import type { EntityManager } from 'typeorm';
import type { IsolationLevel } from '../../protocol/options.js';
import { dataSourceOf } from '../data-source-of.js';
import { handleOfJoined, scopeOfRunner, type Surroundings } from './runner-handles.js';

type Work = (manager: EntityManager) => Promise<unknown>;
/** Of `EntityManager.transaction()`. */
type TransactionArguments = [isolationOrWork: IsolationLevel | Work | undefined, work?: Work];

/**
 * What of EntityManager is replaced, in the class that all others are derived from. Custom repositories come with
 * managers of their own, made before the library was there.
 */
export function managerReplacements(base: EntityManager, surroundings: Surroundings): PropertyDescriptorMap {
  const ordinary = base.transaction as (...given: TransactionArguments) => Promise<unknown>;
  async function transaction(this: EntityManager, ...given: TransactionArguments): Promise<unknown> {
    const { queryRunner } = this;
    const scope =
      queryRunner === undefined
        ? surroundings(dataSourceOf(this).driver)?.scope()
        : scopeOfRunner(queryRunner, surroundings);
    const [isolation, work] = typeof given[0] === 'function' ? [undefined, given[0]] : given;
    if (scope === undefined || work === undefined || queryRunner?.isReleased) {
      return ordinary.apply(this, given);
    }
    return scope.transaction.transactions.enter(scope, () => nest(this, isolation as IsolationLevel | undefined, work));
  }
  return { transaction: { value: transaction, writable: true, configurable: true } };
}

/**
 * A savepoint that is released when `work` succeeds and rolled back to when it fails. It has a runner of its own, so
 * that two at once on one manager keep apart, and goes by that runner's methods, which a class of the application may
 * have extended.
 */
async function nest(around: EntityManager, isolation: IsolationLevel | undefined, work: Work): Promise<unknown> {
  const runner = dataSourceOf(around).createQueryRunner();
  Object.assign(runner, { data: around.queryRunner?.data ?? runner.data });
  const handle = handleOfJoined(runner);
  try {
    await runner.startTransaction(isolation);
    const nested = handle.lend();
    const run = (): Promise<unknown> => work(runner.manager);
    const result = await (nested === undefined ? run() : nested.transaction.transactions.enter(nested, run));
    handle.takeBack();
    await runner.commitTransaction();
    return result;
  } catch (error) {
    handle.takeBack();
    // The handler's own error is what it must see, also where the rollback fails for want of a connection.
    await runner.rollbackTransaction().catch(() => undefined);
    throw error;
  } finally {
    await runner.release();
  }
}
