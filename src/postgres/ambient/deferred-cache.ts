import type { DataSource, QueryRunner } from 'typeorm';
import type { Scope, ScopedTransaction } from './transaction-scope.js';

type QueryResultCache = NonNullable<DataSource['queryResultCache']>;
type CachedResult = Parameters<QueryResultCache['storeInCache']>[0];

/** A change that waits for COMMIT, as the transaction itself sees it already. */
interface Change {
  readonly scope: Scope;
  /** What the cache holds then of a query; nothing where the change does not concern it. */
  readonly effect: (asked: CachedResult) => { holds: CachedResult | undefined } | undefined;
}

const deferring = new WeakSet<QueryResultCache>();
const changesOf = new WeakMap<ScopedTransaction, Change[]>();

/** What a cached query is known by: its own identifier, or its text with the parameters. */
function isSame(one: CachedResult, other: CachedResult): boolean {
  return one.identifier ? one.identifier === other.identifier : one.query === other.query;
}

/**
 * Has TypeORM's query result cache, whatever keeps it, learn of what a transaction has read, removed or cleared when
 * that has committed, by an ordinary connection. Inside of the transaction a refreshed entry would be a row that is
 * locked until COMMIT, which all who read the same query wait for; and a cache outside of the database would keep what
 * was rolled back.
 *
 * @param scopeOf the scope that a runner, or else the running flow, works in
 * @param outside runs its argument where connections are ordinary
 * @param createRunner for what is changed then: TypeORM 0.3.20 does not release one that it makes to clear the cache
 */
export function deferCaching(
  cache: QueryResultCache,
  scopeOf: (runner: QueryRunner | undefined) => Scope | undefined,
  outside: <T>(work: () => T) => T,
  createRunner: () => QueryRunner,
): void {
  if (deferring.has(cache)) {
    return; // by another application on the DataSource
  }
  deferring.add(cache);
  const { getFromCache, storeInCache, remove, clear } = cache;

  /** False outside of a transaction. */
  const afterCommit = (
    runner: QueryRunner | undefined,
    work: () => Promise<void>,
    effect: Change['effect'],
  ): boolean => {
    // With a nested transaction open, what was read may be that one's.
    const scope = scopeOf(runner)?.innermost();
    if (scope === undefined) {
      return false;
    }
    const changes = changesOf.get(scope.transaction) ?? [];
    changesOf.set(scope.transaction, changes);
    changes.push({ scope, effect });
    scope.afterCommit.add(() => outside(work));
    return true;
  };

  const withRunner = async (work: (runner: QueryRunner) => Promise<void>): Promise<void> => {
    const runner = createRunner();
    try {
      await work(runner);
    } finally {
      await runner.release();
    }
  };

  const replacements: Pick<QueryResultCache, 'getFromCache' | 'storeInCache' | 'remove' | 'clear'> = {
    async getFromCache(asked, runner) {
      const transaction = scopeOf(runner)?.transaction;
      const changes = transaction === undefined ? [] : (changesOf.get(transaction) ?? []);
      for (const { scope, effect } of changes.toReversed()) {
        const known = scope.wasUndone() ? undefined : effect(asked);
        if (known !== undefined) {
          return known.holds;
        }
      }
      return getFromCache.call(cache, asked, runner);
    },

    async storeInCache(result, saved, runner) {
      const store = (): Promise<void> => storeInCache.call(cache, result, saved);
      if (!afterCommit(runner, store, (asked) => (isSame(asked, result) ? { holds: result } : undefined))) {
        await storeInCache.call(cache, result, saved, runner);
      }
    },

    async remove(identifiers, runner) {
      const isRemoved = ({ identifier }: CachedResult): boolean => identifiers.includes(identifier ?? '');
      const removeAll = (): Promise<void> => withRunner((own) => remove.call(cache, identifiers, own));
      if (!afterCommit(runner, removeAll, (asked) => (isRemoved(asked) ? { holds: undefined } : undefined))) {
        await remove.call(cache, identifiers, runner);
      }
    },

    async clear(runner) {
      if (
        !afterCommit(
          runner,
          () => withRunner((own) => clear.call(cache, own)),
          () => ({ holds: undefined }),
        )
      ) {
        await clear.call(cache, runner);
      }
    },
  };
  Object.assign(cache, replacements);
}
