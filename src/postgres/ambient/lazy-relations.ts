import type { DataSource, QueryRunner } from 'typeorm';

type RelationLoader = DataSource['relationLoader'];

const bound = new WeakSet<RelationLoader>();

/**
 * Has what is read of an entity by a lazy relation be what the transaction sees that made the entity, whoever awaits it:
 * interceptors and serializers do so after the handler has returned and before COMMIT. TypeORM binds only those that it
 * has loaded, not those that `create()` has made.
 */
export function bindLazyRelations(loader: RelationLoader, reader: () => QueryRunner | undefined): void {
  if (bound.has(loader)) {
    return; // by another application on the DataSource
  }
  bound.add(loader);
  const enableLazyLoad = loader.enableLazyLoad.bind(loader);
  loader.enableLazyLoad = (relation, entity, queryRunner) => enableLazyLoad(relation, entity, queryRunner ?? reader());
}
