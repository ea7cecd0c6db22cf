import type { QueryRunner } from 'typeorm';
import { AfterCommit } from '../../util/after-commit.js';
import { deferred } from '../../util/deferred.js';
import { TransactionRolledBackError } from '../../protocol/exceptions.js';
import type { IsolationLevel } from '../../protocol/options.js';
import { Lane } from '../../util/lane.js';
import type { Flows, Lead, Session, TransactionEvent } from './session.js';
import { assertIsolation, tellRemedy } from './remedies.js';
import { isRead } from './sql-statements.js';
import { type Execute, shown, type Statement, WaitingStatement } from './waiting-statement.js';

/** The transaction that a scope is in. */
export type ScopedTransaction = Session<Scope>;

export type ScopeFlows = Flows<Scope>;

export interface ScopeKind {
  /** Begun by SQL: subscribers are not told of it, as they are not outside. */
  isSilent?: boolean;
  isReadOnly?: boolean;
}

/** So long nothing happens in a nested transaction before it is presumed to await a statement that waits for its end. */
const STALL_MS = 20;

/** Work of a nested transaction that was rolled back: it must not write into the transaction around it. */
class NestedTransactionRolledBackError extends TransactionRolledBackError {
  constructor() {
    super();
    this.message =
      'The nested transaction that this work belongs to was rolled back, so what still runs on its behalf can no longer use the database. ' +
      'Await all work before the callback of DataSource.transaction() returns.';
  }
}

/**
 * The transaction itself, or a savepoint in it. Statements of a scope run one after another; a nested scope takes its
 * turn among them and keeps it until it ends, so that what runs beside it is never undone with it.
 *
 * It is long because a savepoint's turn, its end, and those who wait for either are one protocol.
 */
export class Scope {
  readonly lane = new Lane();
  /** Goes with what was done in this scope: to the one around when that keeps it, to nowhere when it is undone. */
  readonly afterCommit = new AfterCommit();
  /** Settles when the savepoint is set, or could not be. */
  entered: Promise<void> = Promise.resolve();
  private readonly savepoint: string;
  private state: 'entering' | 'open' | 'released' | 'undone' | 'refusing';
  private undoing = false;
  /** The flow that has begun this scope has used its runner: from then on no other one is presumed to be it. */
  private isFlowKnown = false;
  private readonly left = deferred();
  /** The nested scope whose turn it is. */
  private inner: Scope | undefined;
  /** What else waits for its turn. */
  private readonly waiting = new Set<WaitingStatement>();
  private watch: NodeJS.Timeout | undefined;
  private lastStatement: string | undefined;
  private leader: Lead | undefined;
  /** Nested transactions that were kept: what becomes of this one becomes of them. */
  private readonly kept: Scope[] = [];

  constructor(
    readonly transaction: ScopedTransaction,
    private readonly parent?: Scope,
    /** Without one it is only a turn, in which several things come together. */
    private readonly hasSavepoint = parent !== undefined,
    private readonly kind: ScopeKind = {},
  ) {
    this.state = hasSavepoint ? 'entering' : 'open';
    this.savepoint = hasSavepoint ? transaction.nextName() : '';
  }

  /** This scope, or the nearest around it that has not ended. */
  live(): Scope {
    if (this.state === 'refusing' && !this.transaction.isForgotten) {
      throw new NestedTransactionRolledBackError();
    }
    const hasEnded = this.state === 'released' || this.state === 'undone';
    return hasEnded && this.parent !== undefined ? this.parent.live() : this;
  }

  /**
   * The same for a flow that is only presumed to be in this scope. As long as the savepoint is not set it cannot be the
   * one that awaits it, and once that one has made itself known it is another.
   */
  forPresumed(): Scope {
    const isAnother = this.state === 'entering' || (this.state === 'open' && this.isFlowKnown);
    return isAnother && this.parent !== undefined ? this.parent.live() : this.live();
  }

  isWithin(other: Scope): boolean {
    return this === other || (this.parent?.isWithin(other) ?? false);
  }

  /** @param isAlone nothing but its caller's code hangs on it: it is not the first half of a write by TypeORM */
  query(statement: Statement, isAlone = false): Promise<unknown> {
    const { transaction } = this;
    const { transactions } = transaction;
    const [sql, , , send] = statement;
    const execute: Execute = (...given) => {
      this.lastStatement = sql;
      return transaction.execute(...given).catch(tellRemedy);
    };
    const waiting = new WaitingStatement(statement, isAlone);
    if (transactions.transaction() !== transaction && isRead(sql)) {
      // An interceptor or serializer that awaits a lazy relation: if it fails, the handler's work is not undone for it.
      return this.inTurn(() =>
        transaction.state === 'open' ? waiting.readApart(execute, transaction.nextName()) : execute(...statement),
      );
    }
    if (send !== undefined && transactions.announcesQueries) {
      // Subscribers that are told of it may use the DataSource themselves, before it is sent and before it is done.
      return this.together(() => execute(...statement));
    }
    if (this.lane.isIdle) {
      return this.inTurn(() => execute(...statement));
    }
    this.waiting.add(waiting);
    this.watchForStall();
    return waiting.answerInTurn((work) =>
      this.inTurn(() => {
        this.waiting.delete(waiting);
        return work(execute);
      }),
    );
  }

  /**
   * What waits for a nested transaction in which nothing is under way: most likely that one waits for it, too. For a
   * log; nothing where that is not so.
   */
  describeStall(): string | undefined {
    const { inner } = this;
    if (inner === undefined || !inner.lane.isIdle) {
      return inner?.describeStall();
    }
    const last = inner.lastStatement;
    const nested = `a nested transaction in which nothing is under way (${last === undefined ? 'it has run no statement' : `its last statement: ${shown(last)}`})`;
    const [statement] = this.waiting;
    return statement === undefined
      ? `The request waits for ${nested}: end it before the handler returns.`
      : `${String(statement)}, which was handed in outside of it, waits for ${nested}. ` +
          'If that one awaits the statement, both wait for ever: await it before the nested transaction begins, or run it with its manager.';
  }

  /** Starts a nested scope; its statements wait until it has had its turn and its savepoint is set. */
  begin(isolation: IsolationLevel | undefined, kind?: ScopeKind): Scope {
    assertIsolation(isolation, this.transaction.isolation);
    const nested = new Scope(this.transaction, this, true, kind);
    nested.entered = new Promise((resolve, reject) => {
      this.inTurn((turn) => turn.hold(nested, resolve)).catch((error: unknown) => {
        nested.close('undone');
        reject(error);
      });
    });
    void nested.lane.run(() => nested.entered).catch(() => undefined);
    return nested;
  }

  /** Keeps what was done in this scope: it becomes part of the one around. */
  release(): Promise<void> {
    return this.lane.run(async () => {
      this.live(); // refuses where the scope around was rolled back meanwhile
      const { savepoint } = this;
      // One that could only read has written nothing, and is undone for what followed could only read, too.
      const undo = this.kind.isReadOnly ? `rollback to savepoint ${savepoint}; ` : '';
      await this.transaction.execute(`${undo}release savepoint ${savepoint}`);
      this.afterCommit.moveTo(this.parent!.afterCommit);
      if (this.transaction.transactions.announcesTransactions) {
        this.parent!.kept.push(...this.committing);
      }
      this.close('released');
    });
  }

  /** Undoes what was done in this scope, and in nested ones that nobody has ended. */
  rollBack(then: 'undone' | 'refusing'): Promise<void> {
    this.undoing = true;
    this.inner?.abandon();
    return this.lane.run(async () => {
      try {
        if (this.state === 'open') {
          const { savepoint } = this;
          await this.transaction.execute(`rollback to savepoint ${savepoint}; release savepoint ${savepoint}`);
        }
      } finally {
        this.close(then);
      }
    });
  }

  /** The running flow uses the runner that it has begun this scope with. */
  recogniseFlow(): void {
    const { transactions } = this.transaction;
    const isFurtherIn = transactions.innermost(this) !== this;
    if (this.state === 'open' && !isFurtherIn && !transactions.isSurelyIn(this)) {
      this.isFlowKnown = true;
      transactions.goInto(this);
    }
  }

  /** Runs `work`, and all that comes of it, in one turn of this scope. */
  together<T>(work: () => Promise<T>): Promise<T> {
    const { transaction } = this;
    return this.inTurn(async (turn) => {
      if (transaction.state !== 'open') {
        return work();
      }
      const whole = new Scope(transaction, turn, false);
      try {
        return await transaction.transactions.enter(whole, work);
      } finally {
        await Promise.race([whole.lane.run(() => Promise.resolve()), transaction.untilOver]);
        whole.afterCommit.moveTo(turn.afterCommit);
        turn.kept.push(...whole.kept);
        whole.close('released');
      }
    });
  }

  get announces(): boolean {
    return !this.kind.isSilent && this.transaction.transactions.announcesTransactions;
  }

  /** Tells TypeORM's subscribers, from within the transaction. */
  async announce(event: TransactionEvent): Promise<void> {
    if (this.announces) {
      await this.transaction.transactions.enter(this, () => this.lead.announce(event));
    }
  }

  /** Tells them that it is undone, and with it those inside of it that were kept. */
  async announceRollback(): Promise<void> {
    for (const scope of this.kept) {
      await scope.lead.announce('BeforeTransactionRollback');
      await scope.lead.announce('AfterTransactionRollback');
    }
    await this.lead.announce('AfterTransactionRollback');
  }

  /** All that commits with it, itself last. */
  get committing(): readonly Scope[] {
    return this.kind.isSilent ? this.kept : [...this.kept, this];
  }

  /** The runner that stands for this scope: its manager is that of the transaction. */
  get lead(): Lead {
    const isLedByAnother = this.parent !== undefined && (!this.hasSavepoint || this.kind.isSilent === true);
    return (this.leader ??= isLedByAnother ? this.parent.lead : this.transaction.createLead(this));
  }

  /** @internal The runner that has begun it. */
  isLedBy(runner: Lead): void {
    this.leader = runner;
  }

  /** One of nobody's in particular. */
  createRunner(): QueryRunner {
    const { transactions } = this.transaction;
    return transactions.enter(this, () => transactions.dataSource.createQueryRunner());
  }

  /** Runs `work` when it is this scope's turn, or, where it has ended by then, that of the scope around. */
  inTurn<T>(work: (turn: Scope) => Promise<T>): Promise<T> {
    if (this.transaction.state !== 'open') {
      return work(this); // nobody has turns any more
    }
    return this.lane.run(() => {
      const live = this.live();
      return live === this ? work(this) : live.inTurn(work);
    });
  }

  /** Sets the nested scope's savepoint and keeps the turn for it until it ends. */
  private async hold(nested: Scope, entered: () => void): Promise<void> {
    if (this.undoing || this.transaction.state === 'committed') {
      throw new NestedTransactionRolledBackError();
    }
    this.inner = nested;
    try {
      const readOnly = nested.kind.isReadOnly ? '; set local transaction_read_only = on' : '';
      await this.transaction.execute(`savepoint ${nested.savepoint}${readOnly}`);
      if (nested.state === 'entering') {
        nested.state = 'open';
      }
      entered();
      this.watchForStall();
      await this.transaction.untilLeft(nested.left.promise);
    } finally {
      this.inner = undefined;
      clearTimeout(this.watch);
      this.watch = undefined;
    }
  }

  /**
   * A memoised query, or one batched by a DataLoader, runs outside of a nested transaction that may yet await it. What
   * only reads can run inside, where it sees what that one has written so far.
   */
  private watchForStall(seen?: { turn: Scope; tasks: number }): void {
    if (this.inner === undefined || (this.watch !== undefined && seen === undefined)) {
      return;
    }
    const turn = this.inner.innermost();
    const isStalled = turn.lane.isIdle && seen?.turn === turn && seen.tasks === turn.lane.tasks;
    const read = [...this.waiting].find((statement) => statement.mayRead);
    this.watch = undefined;
    if (read === undefined) {
      return;
    }
    if (isStalled) {
      const { transaction } = this;
      const reading = turn.lane.run(() =>
        read.read((...given) => transaction.execute(...given), transaction.nextName()),
      );
      // Where it cannot be tried, its own turn will tell.
      void reading.catch(() => undefined).then(() => this.watchForStall());
      return;
    }
    const { tasks } = turn.lane;
    this.watch = setTimeout(() => this.watchForStall({ turn, tasks }), STALL_MS);
  }

  /** This scope, or the one in it that has the turn. */
  innermost(): Scope {
    return this.inner?.innermost() ?? this;
  }

  /** The scope around is rolled back and this one with it, whoever was to end it. */
  private abandon(): void {
    this.inner?.abandon();
    if (this.state === 'entering' || this.state === 'open') {
      this.close('refusing');
    }
  }

  private close(state: 'released' | 'undone' | 'refusing'): void {
    if (this.state !== 'released') {
      this.state = state;
    }
    this.left.resolve();
  }

  /** @internal A cursor ends with the scope it was opened in when that is rolled back, and with the transaction. */
  onCursor(sql: string): Promise<unknown> {
    return this.inTurn(() => {
      if (this.wasUndone()) {
        throw new NestedTransactionRolledBackError();
      }
      if (this.transaction.isPast) {
        throw new Error('This stream was to be read within the transaction of its idempotent request, which is over.');
      }
      return this.transaction.execute(sql);
    });
  }

  /** Whether nothing of what was done in it is kept. */
  wasUndone(): boolean {
    return this.state === 'undone' || this.state === 'refusing' || (this.parent?.wasUndone() ?? false);
  }
}
