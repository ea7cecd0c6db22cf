import type { PoolClient } from 'pg';
import type { DataSource, EntityManager, QueryRunner } from 'typeorm';
import type { IsolationLevel } from '../../protocol/options.js';
import type { AfterCommitCallback } from '../../util/after-commit.js';
import type { Aftermath } from '../../util/late-work.js';
import type { TransactionState } from '../owned-transaction.js';
import type { Beginning, Ending } from './transaction-boundary.js';
import type { Execute } from './waiting-statement.js';

/** What TypeORM's subscribers are told, as its broadcaster names it. */
export type TransactionEvent = `${'Before' | 'After'}Transaction${'Start' | 'Commit' | 'Rollback'}`;

export type Broadcaster = QueryRunner['broadcaster'];

/** A runner that subscribers are told of by another one, which leads. */
export interface Spoken {
  readonly runner: QueryRunner;
  speaker: Lead | undefined;
}

/** The runner that stands for a scope. */
export interface Lead {
  readonly manager: EntityManager;
  announce(event: TransactionEvent): Promise<void>;
  /** What tells subscribers of what `runner` does, as if it was this one. */
  speakFor(runner: Spoken): Broadcaster;
  fallSilent(runner: Spoken): void;
}

/** Whose connection pg's client would be outside; in a transaction of the library its statements have their turns by it. */
export interface Borrower {
  /** Runs `work` when it is the turn of where the running code is. @throws where that was undone */
  inTurn<T>(work: () => Promise<T>): Promise<T>;
  /** Whether there is a transaction that it may end: begun by it and not ended. */
  readonly isInOwnTransaction: boolean;
  beginBySql(beginning: Beginning): Promise<void>;
  /** Answers how it has ended: COMMIT rolls back where a statement has failed. */
  endBySql(how: Ending): Promise<Ending>;
}

/** The transaction itself. */
export interface Lender {
  /** Its record has the turn, or is to have it, and waits for what its client is still handed. */
  readonly isCommitting: boolean;
  /** Why a statement that comes when the transaction is over cannot run. */
  refusal(): Error | undefined;
}

/** What is known of asynchronous flows, and where each of them is. */
export interface Flows<Scope> {
  readonly dataSource: DataSource;
  readonly hasSubscribers: boolean;
  readonly announcesQueries: boolean;
  readonly announcesTransactions: boolean;
  /** The transaction on whose behalf the running code works, whatever became of it. */
  transaction(): Session<Scope> | undefined;
  /** `scope`, or the one inside of it that the running flow has gone into. */
  innermost(scope: Scope): Scope;
  enter<T>(scope: Scope, work: () => T): T;
  /** Runs `work` with ordinary connections, outside of any transaction of this library. */
  outside<T>(work: () => T): T;
  /** Whether the running flow is in `scope`, and not only presumed to be. */
  isSurelyIn(scope: Scope): boolean;
  /** Puts the rest of the running flow into `scope`. */
  goInto(scope: Scope): void;
  /**
   * Puts the rest of the running flow into `scope`, and with it what its caller starts beside it: the two cannot be told
   * apart until the flow uses its runner.
   */
  presumablyGoInto(scope: Scope): void;
}

/** The transaction, as its scopes and runners see it. */
export interface Session<Scope> {
  readonly transactions: Flows<Scope>;
  readonly root: Scope;
  readonly isolation: IsolationLevel;
  /** For the log: "POST /orders". */
  readonly what: string;
  readonly state: TransactionState;
  /** True once nothing can be committed any more, not even without the handler's writes. */
  readonly isOver: boolean;
  /** Whether late work is done by ordinary connections. */
  readonly isPast: boolean;
  /** Whether it is nobody's business any more. */
  readonly isForgotten: boolean;
  /** pg's client, for as long as the transaction is open. */
  clientFor(borrower: Borrower): PoolClient;
  /** Settles with its end, or when the handler's writes are to be undone. */
  readonly untilOver: Promise<void>;
  /** For what is read of the entities that were made in it; none where they are nobody's any more. */
  readonly reader: QueryRunner | undefined;
  /** For what is done in its context once it is over. */
  readonly lateWork: Aftermath | undefined;
  /** Of SQL, that somebody may still read from. */
  openCursors: number;
  /** Something that it should have undone by itself could only be undone as a whole. */
  cannotCommitBecause: Error | undefined;
  /** Has `callback` run once everything has committed; never where what it was handed in by is undone. */
  afterCommit(callback: AfterCommitCallback): void;
  /** For a savepoint or a cursor. */
  nextName(): string;
  createLead(scope: Scope): Lead;
  /** The only place where a handler's statement reaches the connection; lanes see to one at a time. */
  execute: Execute;
  /** Waits for the end of a nested transaction, or of the whole: then nobody keeps a turn. */
  untilLeft(left: Promise<void>): Promise<void>;
  /** @throws for late work, unless all was committed, or has been lost for long: it would outlive what is undone */
  assertNotLost(): void;
  /** The same, however long ago: for what belongs to a transaction that was begun in it. */
  assertKept(): void;
}
