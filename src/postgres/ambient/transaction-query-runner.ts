import {
  type EntityManager,
  type QueryRunner,
  QueryRunnerAlreadyReleasedError,
  TransactionNotStartedError,
} from 'typeorm';
import { IdempotencyTransactionFailedException } from '../../protocol/exceptions.js';
import type { IsolationLevel } from '../../protocol/options.js';
import type { TransactionState } from '../owned-transaction.js';
import { SQLSTATE, sqlStateOf } from '../sqlstate.js';
import { queryBy } from '../database-connection.js';
import { streamIn } from './cursor-stream.js';
import type { Beginning, Ending } from './transaction-boundary.js';
import { transactionControlError } from './transaction-control.js';
import type { Borrower, Broadcaster, Lead, Spoken, TransactionEvent } from './session.js';
import type { Scope } from './transaction-scope.js';
import type { Send } from './waiting-statement.js';

/** Who holds it: code that asked for a runner of its own, or a manager of the transaction. */
export type RunnerOwner = 'caller' | 'transaction';

/** Of `QueryRunner.stream()`. */
export type StreamArguments = [
  sql: string,
  parameters?: unknown[],
  onEnd?: () => void,
  onError?: (error: Error) => void,
];

const RUNNER_OF_MANAGER = Symbol('handle');

const OWN_RUNNER: PropertyDescriptor & ThisType<{ readonly [RUNNER_OF_MANAGER]: RunnerHandle }> = {
  configurable: true,
  enumerable: true,
  get() {
    return this[RUNNER_OF_MANAGER].runnerOfManager;
  },
};

/**
 * What a QueryRunner of a transaction knows and does.
 *
 * It is long because it answers for every method of TypeORM's QueryRunner that touches a connection.
 */
export class RunnerHandle implements Lead, Spoken, Borrower {
  /** Nested transactions that were started by it and not ended, innermost last. It ends no others. */
  private readonly begun: Scope[] = [];
  private hasBegun = false;
  private hasSent = false;
  /** Its class does something of its own when it begins a transaction: then each write begins one, as it would outside. */
  addsToTransactions = false;
  /** Where it was connected, or has started a transaction, when the request's own had committed. */
  private late: QueryRunner | undefined;
  private isConnected = false;
  /** Asked for its manager, it is used for several statements that hang together: a save() reads before it writes. */
  private isManaged = false;
  private ownManager!: EntityManager;
  private readonly ownBroadcaster: Broadcaster;
  /** Which one it speaks for, where it leads; and which one speaks for it. */
  private heard: { runner: Spoken | undefined } | undefined;
  speaker: Lead | undefined;
  /** While a callback has its manager, the transaction around that is not its to end. */
  private lent: 0 | 1 = 0;
  /** A callback had its manager, by which what it has left running goes when the nested transaction is over. */
  private wasLent = false;

  constructor(
    private readonly home: Scope,
    /** Whose it is: that of code which asked for one, or that of a manager of the transaction. */
    public owner: RunnerOwner,
    readonly runner: QueryRunner,
  ) {
    this.ownBroadcaster = runner.broadcaster;
  }

  get isLate(): boolean {
    return this.late !== undefined;
  }

  get isTransactionActive(): boolean {
    return this.late === undefined
      ? !this.isPast && (this.begun.length > 0 || this.isTransactionPresumed)
      : this.late.isTransactionActive;
  }

  /** There is that of the request, so that `save()` does without one of its own. */
  private get isTransactionPresumed(): boolean {
    return this.owner === 'transaction' || !(this.hasBegun || this.addsToTransactions);
  }

  get manager(): EntityManager {
    this.isManaged = true;
    this.begun.at(-1)?.recogniseFlow();
    return this.ownManager;
  }

  /** One for all runners of a transaction: subscribers collect by the runner that they are told of. */
  get broadcaster(): Broadcaster {
    const { transactions } = this.home.transaction;
    if (this.late !== undefined || this.state !== 'open' || !transactions.hasSubscribers) {
      return this.ownBroadcaster;
    }
    return this.scope().lead.speakFor(this);
  }

  speakFor(runner: Spoken): Broadcaster {
    if (runner !== this) {
      this.heard ??= this.passDataOn();
      this.heard.runner = runner;
      runner.speaker = this;
    }
    return this.ownBroadcaster;
  }

  fallSilent(runner: Spoken): void {
    if (this.heard?.runner === runner) {
      this.heard.runner = undefined;
    }
  }

  /** What `save(…, { data })` is given for subscribers is set on the runner that saves, and read from this one. */
  private passDataOn(): { runner: Spoken | undefined } {
    const own = { data: this.runner.data };
    const heard: { runner: Spoken | undefined } = { runner: undefined };
    Object.defineProperty(this.runner, 'data', {
      configurable: true,
      enumerable: true,
      get: () => (heard.runner?.runner ?? own).data,
      set: (data: QueryRunner['data']) => {
        (heard.runner?.runner ?? own).data = data;
      },
    });
    return heard;
  }

  announce(event: TransactionEvent): Promise<void> {
    return this.ownBroadcaster.broadcast(event);
  }

  /** Runs `work` with nothing of others in between. */
  together<T>(work: () => Promise<T>): Promise<T> {
    const isOpen = this.late === undefined && this.state === 'open';
    return isOpen ? this.scope().together(work) : work();
  }

  /** The manager that TypeORM has made for the runner. */
  adopt(manager: EntityManager): void {
    this.ownManager = manager;
    Object.assign(manager, { [RUNNER_OF_MANAGER]: this });
    Object.defineProperty(manager, 'queryRunner', OWN_RUNNER);
  }

  /** The running flow uses the runner that it has begun a transaction with. */
  recogniseFlow(): void {
    this.begun.at(-1)?.recogniseFlow();
  }

  scope(): Scope {
    const { transactions } = this.home.transaction;
    if (this.begun.length > 0) {
      this.home.transaction.assertKept();
    }
    this.begun.at(-1)?.recogniseFlow();
    return transactions.innermost((this.begun.at(-1) ?? this.home).live());
  }

  /** After COMMIT a manager is like the DataSource's own. */
  get runnerOfManager(): QueryRunner | undefined {
    return this.isPast && this.late === undefined && this.begun.length === 0 ? undefined : this.runner;
  }

  async connect(): Promise<unknown> {
    this.home.transaction.assertNotLost();
    if (this.state === 'open') {
      return this.home.transaction.clientFor(this);
    }
    this.isConnected = true;
    return this.lateRunner().connect();
  }

  /** By who asked for it: from then on it is refused, as any runner of TypeORM is. */
  async release(): Promise<void> {
    try {
      await this.leave();
    } finally {
      if (this.owner === 'caller' && !this.wasLent) {
        Object.assign(this.runner, { isReleased: true });
      }
    }
  }

  /** Ends what is its own. What nobody has committed is not kept, nor in the way. */
  async leave(): Promise<void> {
    while (this.begun.length > 0) {
      await this.end('roll back').catch(() => undefined);
    }
    await this.late?.release();
    this.late = undefined;
    this.isConnected = false;
    this.speaker?.fallSilent(this);
  }

  private assertNotReleased(): void {
    if (this.runner.isReleased) {
      throw new QueryRunnerAlreadyReleasedError();
    }
  }

  async dispose(): Promise<void> {
    try {
      while (this.begun.length > 0) {
        await this.end('commit');
      }
      await this.late?.[Symbol.asyncDispose]();
    } finally {
      await this.release();
    }
  }

  async query([sql, parameters, structured]: Parameters<Send>, send: Send): Promise<unknown> {
    this.assertNotReleased();
    this.hasSent = true;
    refuseTransactionControl(sql);
    return this.late === undefined
      ? await this.scope().query([sql, parameters, structured, send], !this.isManaged)
      : await queryBy(this.late, sql, parameters, structured);
  }

  async stream([sql, parameters, onEnd, onError]: StreamArguments, send: Send): Promise<unknown> {
    this.assertNotReleased();
    this.hasSent = true;
    if (this.late !== undefined || this.isPast) {
      return this.lateRunner().stream(sql, parameters, onEnd, onError);
    }
    refuseTransactionControl(sql);
    const stream = await streamIn(this.scope(), sql, parameters, send);
    if (onEnd !== undefined) {
      stream.on('end', onEnd);
    }
    if (onError !== undefined) {
      stream.on('error', onError);
    }
    return stream;
  }

  async startTransaction(isolation?: IsolationLevel): Promise<void> {
    this.assertNotReleased();
    if (this.late === undefined && !this.isPast) {
      const nested = this.scope().begin(isolation);
      this.begun.push(nested);
      nested.isLedBy(this);
      this.hasBegun = true;
      // What follows in the caller's flow belongs to the new transaction, also where it uses a repository of its own.
      this.home.transaction.transactions.presumablyGoInto(nested);
      try {
        await nested.entered;
        return await this.announceStart(nested);
      } catch (error) {
        this.begun.splice(this.begun.indexOf(nested), 1);
        if (!this.isPast) {
          throw error;
        }
      }
    }
    await this.lateRunner().startTransaction(isolation);
  }

  private async announceStart(nested: Scope): Promise<void> {
    try {
      await nested.announce('BeforeTransactionStart');
      await nested.announce('AfterTransactionStart');
    } catch (error) {
      await nested.rollBack('undone');
      throw error;
    }
  }

  /** @internal */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.scope().inTurn(work);
  }

  /** @internal */
  get isInOwnTransaction(): boolean {
    return this.begun.length > this.lent;
  }

  /** @internal */
  async beginBySql({ isolation, isReadOnly }: Beginning): Promise<void> {
    const nested = this.scope().begin(isolation, { isSilent: true, isReadOnly });
    this.begun.push(nested);
    this.hasBegun = true;
    this.home.transaction.transactions.presumablyGoInto(nested);
    try {
      await nested.entered;
    } catch (error) {
      this.begun.splice(this.begun.indexOf(nested), 1);
      throw error;
    }
  }

  /** @internal */
  async endBySql(how: Ending): Promise<Ending> {
    const nested = this.begun.at(-1)!;
    const isCommitted = how === 'commit' && (await released(nested));
    this.begun.splice(this.begun.indexOf(nested), 1);
    if (isCommitted) {
      return 'commit';
    }
    await this.rollBack(nested);
    return 'roll back';
  }

  /** For a callback: only who calls it ends the transaction, none where the runner is late. */
  lend(): Scope | undefined {
    this.lent = this.begun.length > 0 ? 1 : 0;
    this.wasLent = true;
    return this.begun[0];
  }

  takeBack(): void {
    this.lent = 0;
  }

  async end(how: 'commit' | 'roll back'): Promise<void> {
    if (this.late !== undefined) {
      await this.endLate(this.late, how);
      return;
    }
    const nested = this.isInOwnTransaction ? this.begun.at(-1) : undefined;
    if (nested === undefined) {
      this.endPresumed(how);
      return;
    }
    if (how === 'commit') {
      await nested.announce('BeforeTransactionCommit');
      await nested.release();
    }
    this.begun.splice(this.begun.indexOf(nested), 1);
    if (how === 'roll back') {
      await this.rollBack(nested);
    }
  }

  private async endLate(late: QueryRunner, how: 'commit' | 'roll back'): Promise<void> {
    await (how === 'commit' ? late.commitTransaction() : late.rollbackTransaction());
    if (!late.isTransactionActive && !this.isConnected) {
      await this.leave(); // who got this runner from a manager does not do it
    }
  }

  /** Forgiven where `isTransactionActive` told it that there was one to end. */
  private endPresumed(how: 'commit' | 'roll back'): void {
    if (this.owner !== 'caller' || this.hasBegun) {
      throw new TransactionNotStartedError();
    }
    if (how === 'roll back' && this.hasSent) {
      this.home.transaction.cannotCommitBecause = new UndoneByRunnerError();
    }
  }

  /** Announced as TypeORM does it, but undone in any case. */
  private async rollBack(nested: Scope): Promise<void> {
    const isAnnounced = nested.announces;
    try {
      await (isAnnounced && nested.announce('BeforeTransactionRollback'));
    } finally {
      await nested.rollBack(this.wasLent ? 'refusing' : 'undone'); // late work must not write into the scope around
    }
    await (isAnnounced && nested.announceRollback());
  }

  private get state(): TransactionState {
    return this.home.transaction.state;
  }

  private get isPast(): boolean {
    return this.home.transaction.isPast;
  }

  private lateRunner(): QueryRunner {
    return (this.late ??= this.home.transaction.transactions.dataSource.createQueryRunner());
  }
}

/** Statements that were to be undone are part of what the request would commit. */
class UndoneByRunnerError extends IdempotencyTransactionFailedException {
  constructor() {
    super(
      'The handler rolled a QueryRunner back that had begun no transaction of its own, so all it did was undone. ' +
        'Begin one whatever `isTransactionActive` says, or let the error through.',
    );
  }
}

/** False where a statement in it has failed: COMMIT is a ROLLBACK then, and no error. */
async function released(scope: Scope): Promise<boolean> {
  try {
    await scope.release();
    return true;
  } catch (error) {
    if (sqlStateOf(error) === SQLSTATE.inFailedSqlTransaction) {
      return false;
    }
    throw error;
  }
}

/** @throws Error when it has a statement that begins or ends a transaction */
function refuseTransactionControl(query: unknown): void {
  const error = transactionControlError(query);
  if (error !== undefined) {
    throw error;
  }
}
