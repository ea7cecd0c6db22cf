import {
  type EntityManager,
  type EntitySubscriberInterface,
  EventSubscriber,
  type InsertEvent,
  type QueryRunner,
  type TransactionCommitEvent,
  type TransactionRollbackEvent,
  type TransactionStartEvent,
} from 'typeorm';
import { Effect } from '../../support/effect.entity.js';

/** What the collector was told of, and does besides. Set anew for each test. */
export const collected = {
  /** Transaction events with the number of their runner, in the order in which runners were seen. */
  told: [] as string[],
  /** Here, since TypeORM before 1.0 has one collector for all DataSources. */
  runners: [] as QueryRunner[],
  /** Labels that were published after COMMIT. */
  published: [] as string[],
  /** What `save(…, { data })` had for each insert. */
  data: [] as unknown[],
  beforeCommit: undefined as ((manager: EntityManager) => unknown) | undefined,
  afterCommit: undefined as ((manager: EntityManager) => unknown) | undefined,
  aroundQuery: undefined as ((query: string, manager: EntityManager) => unknown) | undefined,
};

/** An outbox in memory: collects by the runner of a transaction, and publishes when that has committed. */
@EventSubscriber()
export class Collector implements EntitySubscriberInterface<Effect> {
  private readonly inserted = new Map<QueryRunner, string[]>();

  listenTo() {
    return Effect;
  }

  afterInsert({ entity, queryRunner }: InsertEvent<Effect>): void {
    this.inserted.set(queryRunner, [...(this.inserted.get(queryRunner) ?? []), entity.label]);
    collected.data.push(queryRunner.data);
  }

  beforeTransactionStart(event: TransactionStartEvent): void {
    this.tell('before start', event);
  }

  afterTransactionStart(event: TransactionStartEvent): void {
    this.tell('after start', event);
  }

  async beforeTransactionCommit(event: TransactionCommitEvent): Promise<void> {
    this.tell('before commit', event);
    await collected.beforeCommit?.(event.manager);
  }

  async afterTransactionCommit(event: TransactionCommitEvent): Promise<void> {
    this.tell('after commit', event);
    collected.published.push(...(this.inserted.get(event.queryRunner) ?? []));
    this.inserted.delete(event.queryRunner);
    await collected.afterCommit?.(event.manager);
  }

  beforeTransactionRollback(event: TransactionRollbackEvent): void {
    this.tell('before rollback', event);
  }

  afterTransactionRollback(event: TransactionRollbackEvent): void {
    this.tell('after rollback', event);
    this.inserted.delete(event.queryRunner);
  }

  async beforeQuery({ query, manager }: { query: string; manager: EntityManager }): Promise<void> {
    await collected.aroundQuery?.(query, manager);
  }

  async afterQuery({ query, manager }: { query: string; manager: EntityManager }): Promise<void> {
    await collected.aroundQuery?.(query, manager);
  }

  private tell(what: string, { queryRunner }: { queryRunner: QueryRunner }): void {
    const { runners, told } = collected;
    if (!runners.includes(queryRunner)) runners.push(queryRunner);
    told.push(`${what} ${runners.indexOf(queryRunner) + 1}`);
  }
}
