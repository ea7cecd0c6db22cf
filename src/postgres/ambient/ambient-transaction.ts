import type { PoolClient } from 'pg';
import { type EntityManager, QueryFailedError, type QueryRunner } from 'typeorm';
import { type AfterCommitCallback, runLogged } from '../../util/after-commit.js';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { deferred } from '../../util/deferred.js';
import { TransactionOutcomeUnknownError, TransactionRolledBackError } from '../../protocol/exceptions.js';
import type { IsolationLevel } from '../../protocol/options.js';
import { Aftermath } from '../../util/late-work.js';
import { QUIET_MS } from '../../protocol/constants.js';
import { within } from '../../util/timing.js';
import { Announcements } from './announcements.js';
import { handleOfJoined } from './runner-handles.js';
import { type DatabaseConnection, queryBy } from '../database-connection.js';
import { lend, type LentClient } from './lent-client.js';
import type { CommitAnswer, OwnedTransaction, TransactionState } from '../owned-transaction.js';
import type { Borrower, Lead, Lender } from './session.js';
import { Scope, type ScopedTransaction, type ScopeFlows } from './transaction-scope.js';
import { type Send, shown } from './waiting-statement.js';

const CLIENT_TAKEN_BACK =
  'This pg client was that of an idempotent request which is over: its connection serves others now. Ask the pool or the DataSource for one of your own.';

/**
 * The transaction of one claimed request, or of one step, as what runs in it sees it.
 *
 * It is long because each way to its end (commit, roll back, abort, refuse) has to agree with the others on what still runs.
 */
export class AmbientTransaction implements ScopedTransaction, Lender {
  /** @internal Of SQL, that somebody may still read from. */
  openCursors = 0;
  private isUndone = false;
  private isEnding = false;
  private readonly lent = new Map<Borrower, LentClient>();
  private readonly left = deferred();
  /** @internal */
  readonly root: Scope;
  private running: Promise<unknown> = Promise.resolve();
  /** The statement that was handed in last, be it on behalf of one that is running. */
  private latest: Promise<unknown> = Promise.resolve();
  private names = 0;
  private lazyReader: QueryRunner | undefined;
  /** Something that it should have undone by itself could only be undone as a whole. */
  cannotCommitBecause: Error | undefined;
  /** @internal */
  isCommitting = false;
  private isSending = false;
  private readonly aftermath: Aftermath;
  private readonly announcements: Announcements;

  constructor(
    readonly transactions: ScopeFlows,
    private readonly owned: OwnedTransaction,
    readonly isolation: IsolationLevel,
    /** For the log: "POST /orders". */
    readonly what = 'an idempotent request',
  ) {
    this.aftermath = new Aftermath(what);
    this.root = new Scope(this);
    this.announcements = new Announcements(this.root, (work) => transactions.outside(work));
    void this.takeBackOnceOver();
  }

  /** @internal Where TypeORM's own code asks to send a statement, that statement has its turn. */
  clientFor(borrower: Borrower): PoolClient {
    return this.isSending ? this.connection.client : this.lendTo(borrower).client;
  }

  private lendTo(borrower: Borrower): LentClient {
    const { client, openQueries } = this.connection;
    const lent = this.lent.get(borrower) ?? lend(client, openQueries, borrower, this);
    this.lent.set(borrower, lent);
    return lent;
  }

  /** @internal */
  refusal(): Error | undefined {
    const isOver = this.isUndone || this.owned.isEnding;
    return isOver ? (refusalOf(this.state) ?? new Error(CLIENT_TAKEN_BACK)) : undefined;
  }

  get connection(): DatabaseConnection {
    return this.owned.connection;
  }

  /** What has become of the handler's writes, or will. */
  get state(): TransactionState {
    return this.isUndone ? 'rolled back' : this.owned.state;
  }

  /** True once nothing can be committed any more, not even without the handler's writes. */
  get isOver(): boolean {
    return this.isEnding || this.owned.state !== 'open';
  }

  /** Whether all of it, writes or not, has been committed. */
  get isCommitted(): boolean {
    return this.owned.state === 'committed';
  }

  get abortedBecause(): Error | undefined {
    return this.owned.abortedBecause;
  }

  /**
   * Whether it is nobody's business any more: it has ended, and what was refused on its behalf was so for long enough.
   * What carries its context serves others by now.
   */
  get isForgotten(): boolean {
    return this.aftermath.isForgotten;
  }

  /** @internal Whether late work is done by ordinary connections. */
  get isPast(): boolean {
    return this.state === 'committed' || this.isForgotten;
  }

  /** For what is read of the entities that were made in it; none where they are nobody's any more. */
  get reader(): QueryRunner | undefined {
    return this.state === 'open' ? (this.lazyReader ??= this.root.createRunner()) : undefined;
  }

  /** What waits for what, where a nested transaction and a statement outside of it most likely wait for each other. */
  get stall(): Error | undefined {
    const description = this.root.describeStall();
    return description === undefined ? undefined : new Error(description);
  }

  /** Runs `work` so that every use of the DataSource in it, and in all it calls, joins the transaction. */
  run<T>(work: () => T): T {
    return this.aftermath.track(() => this.transactions.enter(this.root, work));
  }

  /**
   * The same for a handler or a step, with what TypeORM's subscribers are told of a transaction. Rejects, too, where one
   * of them does, or where what was done must not be committed.
   */
  carryOut<T>(work: () => Promise<T>): Promise<T> {
    return this.run(async () => {
      await this.announcements.started();
      const result = await work();
      if (this.cannotCommitBecause !== undefined) {
        throw this.cannotCommitBecause;
      }
      await this.announcements.committing();
      return result;
    });
  }

  /** A manager of this transaction. */
  createManager(): EntityManager {
    return this.root.lead.manager;
  }

  /**
   * Has `callback` run once everything has committed; never where this, or the nested transaction that it was handed in
   * by, is undone.
   */
  afterCommit(callback: AfterCommitCallback): void {
    if (this.isPast) {
      void runLogged(callback);
    } else {
      this.transactions.innermost(this.root).afterCommit.add(callback);
    }
  }

  /** Runs what was handed in, once it is known that the handler's writes were committed. Their errors are logged. */
  async runAfterCommit(): Promise<void> {
    await this.announceCommit();
    await this.transactions.outside(() => this.root.afterCommit.run());
  }

  /**
   * Lets the transaction end: behind all statements that were handed in before, and behind open nested transactions.
   * Statements handed in later run on ordinary connections once it has committed.
   */
  async commit(send: (client: PoolClient) => Promise<void>): Promise<CommitAnswer> {
    this.isCommitting = true;
    const answer = await (this.isUndone
      ? this.owned.commit(send)
      : this.owned.commit(send, (work) => this.root.lane.run(() => this.onceLeft(work))));
    if (answer.kind === 'refused') {
      await this.announcements.rolledBack(() => Promise.resolve());
    }
    return answer;
  }

  /** What a handler has handed to pg's own client comes before the record, as what it has handed to TypeORM does. */
  private async onceLeft<T>(work: () => Promise<T>): Promise<T> {
    const deadline = performance.now() + QUIET_MS;
    while (this.connection.isLentBusy && performance.now() < deadline) {
      await this.idle();
      await nextTurn(); // who awaits that may go on by another statement
    }
    return work();
  }

  /** Tells subscribers that it has committed, and with it what was nested in it. Their errors are logged. */
  announceCommit(): Promise<void> {
    return this.announcements.committed();
  }

  /**
   * From here on every statement on behalf of this request is refused; the one that is running is waited for. What has
   * been written is for the caller to undo.
   */
  async refuseFurtherWork(): Promise<void> {
    if (!this.isUndone) {
      await this.untilQuiet();
      await this.announcements.rolledBack(() => {
        this.isUndone = true;
        this.left.resolve();
        this.root.afterCommit.drop();
        return this.idle();
      });
    }
    await this.idle();
  }

  /** Undoes everything and refuses further work, unless it has ended. */
  async rollBack(): Promise<void> {
    const isCommitting = this.isCommitting;
    this.isEnding = true;
    await this.untilQuiet();
    const undo = (): Promise<void> => this.owned.rollBack(() => this.idle());
    await (isCommitting ? undo() : this.announcements.rolledBack(undo));
  }

  /** The same at once, whatever the connection is busy with. False where it had ended already. */
  abort(cause: Error): boolean {
    const isAborted = this.owned.abort(cause);
    if (isAborted && !this.isCommitting) {
      void this.announcements.rolledBack(() => Promise.resolve());
    }
    return isAborted;
  }

  private async takeBackOnceOver(): Promise<void> {
    await this.owned.over;
    this.aftermath.over();
    this.left.resolve();
    this.lent.forEach((lent) => lent.takeBack());
  }

  /**
   * Lets work that a failed handler has not awaited come to its end, to be undone with the rest: refused, it would end
   * the process by an unhandled rejection, where without the library it succeeds. A `save()` hands its INSERT in a few
   * turns after its SELECT was answered; a pause of one turn of the event loop is longer than that.
   */
  private async untilQuiet(): Promise<void> {
    const deadline = performance.now() + QUIET_MS;
    let seen: Promise<unknown> | undefined;
    while (
      this.state === 'open' &&
      (seen !== this.running || this.connection.isLentBusy) &&
      performance.now() < deadline
    ) {
      seen = this.running;
      await Promise.race([within(deadline - performance.now(), this.idle()), this.left.promise]);
      await nextTurn();
    }
  }

  /** @internal Waits for the statement that is running, and for what was handed to pg's own client. */
  async idle(): Promise<void> {
    await this.running.catch(() => undefined);
    await this.connection.untilLeft();
  }

  /** @internal */
  get untilOver(): Promise<void> {
    return this.left.promise;
  }

  /** @internal Waits for the end of a nested transaction, or of the whole: then nobody keeps a turn. */
  async untilLeft(left: Promise<void>): Promise<void> {
    await Promise.race([left, this.left.promise]);
    await this.latest.catch(() => undefined);
  }

  /** @internal */
  createLead(scope: Scope): Lead {
    const lead = handleOfJoined(scope.createRunner());
    lead.owner = 'transaction';
    return lead;
  }

  /** @internal For a savepoint or a cursor. */
  nextName(): string {
    return `idempotency_${++this.names}`;
  }

  /** @internal @throws for late work, unless all was committed, or has been lost for long: it would outlive what is undone */
  assertNotLost(): void {
    if (!this.isForgotten) {
      this.assertKept();
    }
  }

  /** @internal The same, however long ago: for what belongs to a transaction that was begun in it. */
  assertKept(): void {
    const refusal = refusalOf(this.state);
    if (refusal !== undefined) {
      this.aftermath.warn(undefined, 'refused');
      throw refusal;
    }
  }

  /** @internal For what is done in its context once it is over. */
  get lateWork(): Aftermath | undefined {
    return this.state === 'open' ? undefined : this.aftermath;
  }

  /** @internal The only place where a handler's statement reaches the connection; lanes see to one at a time. */
  execute(sql: string, parameters?: unknown[], structured?: boolean, send?: Send): Promise<unknown> {
    const { state } = this;
    // A savepoint, or what ends one, has no place on another connection.
    if (state === 'committed' || (this.isForgotten && send !== undefined)) {
      return this.executeOutside(sql, parameters, structured);
    }
    switch (state) {
      case 'open': {
        const result = send === undefined ? this.send(sql, parameters) : this.sendBy(send, sql, parameters, structured);
        this.isRunning(result);
        return result;
      }
      default:
        if (send !== undefined) {
          this.aftermath.warn(shown(sql), 'refused');
        }
        return Promise.reject(refusalOf(state)!);
    }
  }

  /** A statement may be announced to subscribers that send others before it is done. */
  private isRunning(statement: Promise<unknown>): void {
    this.latest = statement;
    const before = this.running;
    const isDone = (): Promise<unknown> => before;
    this.running = statement.then(isDone, isDone);
  }

  /** TypeORM asks for the client before anything else. */
  private sendBy(send: Send, ...statement: Parameters<Send>): Promise<unknown> {
    this.isSending = true;
    try {
      return send(...statement);
    } finally {
      this.isSending = false;
    }
  }

  /** A statement of the library's own, such as a savepoint: logged, but not announced, as it comes in others' turns. */
  private async send(sql: string, parameters?: unknown[]): Promise<unknown> {
    const { runner, client } = this.connection;
    const { logger } = this.transactions.dataSource;
    logger.logQuery(sql, parameters, runner);
    try {
      return (await client.query<object>(sql, parameters)).rows;
    } catch (error) {
      logger.logQueryError(error as Error, sql, parameters, runner);
      throw new QueryFailedError(sql, parameters, error as Error);
    }
  }

  /** Late work, on an ordinary connection; or on another request's, where what was loaded here is used by that one. */
  private async executeOutside(sql: string, parameters?: unknown[], structured?: boolean): Promise<unknown> {
    const runner = this.transactions.dataSource.createQueryRunner();
    try {
      return await queryBy(runner, sql, parameters, structured);
    } finally {
      await runner.release();
    }
  }
}

function refusalOf(state: TransactionState): Error | undefined {
  switch (state) {
    case 'rolled back':
      return new TransactionRolledBackError();
    case 'unknown':
      return new TransactionOutcomeUnknownError();
    default:
      return undefined;
  }
}
