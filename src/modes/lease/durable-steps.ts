import { Logger } from '@nestjs/common';
import type { EntityManager } from 'typeorm';
import { errorWithoutValues } from '../../util/error-without-values.js';
import { failpoint } from '../../util/failpoint.js';
import { IdempotencyException, IdempotencyStepsChangedException } from '../../protocol/exceptions.js';
import type { RouteOptions } from '../../protocol/options.js';
import type { FinishedStep } from '../../protocol/step.js';
import type { LeaseStore } from '../../postgres/statements/lease-store.js';
import { DownstreamKeys } from './downstream-keys.js';
import { givenOf, resultOfStep, resultOfTransaction } from './class-results.js';
import { DurableStepError } from '../../protocol/durable-step.error.js';
import type { StepHold } from './step-hold.js';
import {
  type StepArguments,
  type StepCall,
  stepCall,
  type StepOptions,
  type StepTools,
  type StepWatch,
  type StepWork,
  type TransactionWork,
} from '../../protocol/step-call.js';
import { EffectMemory, type UnfinishedStep } from './effect-memory.js';
import { runInside, stepAround, untilStepAroundEnds } from './step-place.js';
import { StepTransactions } from './step-transactions.js';
import { StepFailures } from './step-failures.js';
import { type Disagreement, StepMemory } from './step-memory.js';
import type { Serialized } from '../../protocol/serialized.js';
import { errorOf, failureAsJson, outcomeAsJson, storedErrorAsJson } from './step-outcome.js';
import { assertHasRun, assertIsKept } from './step-result.js';

export type StepRules = Pick<
  RouteOptions,
  'storeErrors' | 'isolation' | 'retries' | 'timeoutMs' | 'stepTimeoutMs' | 'maxStepsBytes'
>;

/** What came of it; with an error where the route stores that. */
interface Ending {
  readonly outcome: string;
  readonly error?: unknown;
}

/**
 * The steps of one attempt: those that an earlier one has finished are remembered, the others are run and stored.
 *
 * It is long because a step is entered, run, remembered and refused by rules that look at each other; what needs none of
 * them is in files beside it.
 */
export class DurableSteps implements StepTools {
  private static readonly logger = new Logger('Idempotency');

  private readonly memory: StepMemory;
  private readonly keys: DownstreamKeys;
  private readonly failures = new StepFailures();
  private readonly running = new Set<Promise<unknown>>();
  private readonly effects: EffectMemory;
  private readonly transactions: StepTransactions;
  private readonly refused: Error[] = [];
  private bytes: number;
  private closed = false;

  constructor(
    finished: readonly FinishedStep[],
    private readonly attempt: number,
    private readonly hold: StepHold,
    store: LeaseStore,
    private readonly options: StepRules,
    /** For the log: "POST /orders". */
    route: string,
    private readonly onStep?: StepWatch,
  ) {
    this.memory = new StepMemory(finished.filter(({ outcome }) => outcome.keysUsedUp === undefined));
    this.keys = new DownstreamKeys(finished);
    this.effects = new EffectMemory(hold);
    this.transactions = new StepTransactions(hold, store, this.effects, options, route);
    this.bytes = finished.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Whether a step was begun, so that there may be an effect of it. */
  get hasBegun(): boolean {
    return this.memory.hasEntered;
  }

  get areRunning(): boolean {
    return this.running.size > 0;
  }

  /** Why the transaction of a step takes so long, where it waits for itself. */
  get stall(): Error | undefined {
    return this.transactions.stall;
  }

  /** Whether a step has had its effect, and nothing tells of it. */
  get lostAnEffect(): boolean {
    return this.effects.lostAnEffect;
  }

  /** Whether a tombstone says so of a step: until an operator has spoken nobody goes on. */
  get waitForOperator(): boolean {
    return this.effects.waitForOperator;
  }

  keysUsedUp(id: string): number {
    return this.keys.usedUp(id);
  }

  /**
   * @param isDone whether the handler has come to its end, and not failed on its way
   * @param error what it has failed with
   */
  disagreement(isDone: boolean, error?: unknown): Disagreement | undefined {
    return this.memory.disagreement(isDone) ?? this.otherWay(error);
  }

  /**
   * Failures that the attempt itself has ended with: its retry may try those steps again; but not where an earlier one
   * went on from such a failure by steps that this one has not come by, since their effects stand.
   */
  withdrawnBy(error: unknown): string[] {
    return this.failures.endedWith(error).filter((id) => this.memory.passedBehind(id).length === 0);
  }

  /** Code that told the failure by its class, for instance, and does not know it again. */
  private otherWay(error: unknown): Disagreement | undefined {
    for (const id of this.failures.endedWith(error)) {
      const steps = this.memory.passedBehind(id);
      if (steps.length > 0) {
        const detail =
          `An earlier attempt went on from the failure of step "${id}", and this one has ended with it. No step was run again for it. ` +
          'An error that is remembered has lost its class, but for well-known ones: tell it by its `name` or `code`, not by `instanceof`.';
        return { reason: 'steps-changed', steps, detail };
      }
    }
    return undefined;
  }

  /** Steps that were refused, and why: where the handler has gone on, nobody has carried them out. */
  get refusals(): readonly Error[] {
    return this.refused;
  }

  /** Finished behind a failure that the attempt has ended with: their effects stay, while the failed step is run again. */
  doneBehind(ids: readonly string[]): string[] {
    return this.failures.answersTo(ids);
  }

  /** The handler has ended: no step begins any more, and those that it left running are waited for. */
  async close(): Promise<void> {
    this.closed = true;
    await this.idle();
  }

  /** Waits for the steps that run. */
  async idle(): Promise<void> {
    for (const step of this.running) {
      await step.catch((error: unknown) => DurableSteps.logger.error(errorWithoutValues(error))); // nobody may be there to see it
    }
  }

  step<T>(name: string, ...args: StepArguments<StepWork<T>>): Promise<Serialized<T>> {
    return this.once(name, args, async (step, { run, options }) => {
      if (options.as !== undefined) {
        throw new DurableStepError(`Step "${step.name}": \`as\` is an option of ctx.transaction only.`);
      }
      const ending = await this.tryOut(step, options, async () => {
        const returned = await this.effects.inTime(step, this.options.stepTimeoutMs, () =>
          runInside(this, step.name, run),
        );
        assertHasRun(step.name, returned);
        return this.effects.orTombstone(step, async () => {
          assertIsKept(step.name, returned);
          return outcomeAsJson(step.name, { returned: await resultOfStep(step.name, returned) });
        });
      });
      failpoint('step: ran');
      await this.effects.remember({ ...step, outcome: ending.outcome });
      return ending;
    });
  }

  transaction<T>(name: string, ...args: StepArguments<TransactionWork<T>>): Promise<Serialized<T>> {
    return this.once(name, args, async (step, { run, options }) => {
      const { as } = options;
      await givenOf(step.name, as, undefined);
      const work = async (manager: EntityManager): Promise<unknown> => {
        const returned = await runInside(this, step.name, () => run(manager));
        assertHasRun(step.name, returned);
        assertIsKept(step.name, returned);
        return resultOfTransaction(step.name, as, returned);
      };
      const ending = await this.tryOut(step, options, () => this.transactions.run(step, work));
      if (ending.error !== undefined) {
        await this.hold.remember({ ...step, outcome: ending.outcome }); // its writes are undone; that it has failed stays known
      }
      return ending;
    });
  }

  private once<T, Run extends (...args: never[]) => T | Promise<T>>(
    name: string,
    given: StepArguments<Run>,
    perform: (step: UnfinishedStep, call: StepCall<Run>) => Promise<Ending>,
  ): Promise<Serialized<T>> {
    const step = this.carryOut<T, Run>(name, given, perform);
    this.running.add(step);
    const isOver = (): void => void this.running.delete(step);
    step.then(isOver, isOver);
    return step;
  }

  private async carryOut<T, Run extends (...args: never[]) => T | Promise<T>>(
    name: string,
    given: StepArguments<Run>,
    perform: (step: UnfinishedStep, call: StepCall<Run>) => Promise<Ending>,
  ): Promise<Serialized<T>> {
    const call = stepCall(name, given);
    await untilStepAroundEnds(this);
    try {
      this.assertMayEnter(call);
    } catch (error) {
      this.refused.push(error as Error);
      throw error;
    }
    const position = this.memory.enter(call.id);
    try {
      return (await this.comeBy(call, position, perform)) as Serialized<T>;
    } finally {
      this.memory.leave();
    }
  }

  private async comeBy<Run>(
    call: StepCall<Run>,
    position: number,
    perform: (step: UnfinishedStep, call: StepCall<Run>) => Promise<Ending>,
  ): Promise<unknown> {
    const { id } = call;
    const known = this.memory.recall(id);
    if (known !== undefined) {
      this.onStep?.(call.name);
      return givenOf(id, call.options.as, this.give(id, known.outcome));
    }
    if (!(await this.memory.mayBegin())) {
      throw new IdempotencyStepsChangedException();
    }
    this.assertRoom(id);
    await this.hold.ensure();
    await this.failures.store((step) => this.hold.remember(step));
    failpoint('step: starting');
    const step = { ...this.hold.holder, name: id, position, attempt: this.attempt };
    const began = this.onStep === undefined ? 0 : performance.now();
    const { outcome, error } = await this.hold.whileStepRuns(() => perform(step, call));
    this.failures.answeredBy(id);
    failpoint('step: recorded');
    this.onStep?.(call.name, performance.now() - began);
    this.bytes += Buffer.byteLength(outcome);
    if (error !== undefined) {
      throw error;
    }
    return givenOf(id, call.options.as, (JSON.parse(outcome) as FinishedStep['outcome']).returned);
  }

  /** What the step gives its handler, from the memory. */
  private give(id: string, outcome: FinishedStep['outcome']): unknown {
    const error = errorOf(outcome);
    if (error === undefined) {
      return outcome.returned;
    }
    if (outcome.failure !== undefined) {
      this.failures.recall(id, error);
    }
    throw error;
  }

  /** @throws DurableStepError */
  private assertMayEnter({ id }: StepCall<unknown>): void {
    if (this.closed) {
      throw new DurableStepError(`Step "${id}" is begun after its handler has ended.`);
    }
    const outer = stepAround(this);
    if (outer !== undefined) {
      throw new DurableStepError(`Step "${id}" is begun inside of step "${outer}": steps come one after another.`);
    }
    if (this.memory.has(id)) {
      const cause = this.failures.of(id);
      const failure = cause instanceof Error ? ` The first one has failed: ${cause.message}` : '';
      throw new DurableStepError(
        `Two steps are named "${id}". Each step of a handler needs a name of its own; in a loop, give each the key of its item: ctx.step(name, { key: item.id }, run).${failure}`,
        { cause },
      );
    }
  }

  /** Before the effect: what cannot be remembered must not happen. @throws DurableStepError */
  private assertRoom(id: string): void {
    const { maxStepsBytes } = this.options;
    if (this.bytes >= maxStepsBytes) {
      throw new DurableStepError(
        `Step "${id}" is not begun: the results of this operation's steps take ${this.bytes} bytes as JSON already, and maxStepsBytes allows ${maxStepsBytes}. Return no more of them than later steps need.`,
      );
    }
  }

  /** An error that the route stores is an outcome, too; any other is one only if the handler acts upon it. */
  private async tryOut(step: UnfinishedStep, options: StepOptions, run: () => Promise<string>): Promise<Ending> {
    try {
      return { outcome: await run() };
    } catch (error) {
      const isOwn = error instanceof IdempotencyException || error instanceof DurableStepError;
      const outcome = isOwn ? undefined : storedErrorAsJson(step.name, error, this.options.storeErrors);
      if (outcome === undefined) {
        await (!isOwn && this.keys.renewAfter(error, step, options, (used) => this.hold.remember(used)));
        this.failures.note(step.name, error, isOwn ? undefined : { ...step, outcome: failureAsJson(error) });
        throw error;
      }
      return { outcome, error };
    }
  }
}
