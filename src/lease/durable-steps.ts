import { AsyncLocalStorage } from 'node:async_hooks';
import { HttpException, Logger } from '@nestjs/common';
import type { EntityManager } from 'typeorm';
import type { Connections } from '../connections.js';
import { errorWithoutValues } from '../error-without-values.js';
import { failpoint } from '../failpoint.js';
import { STORE_PATIENCE_MS } from '../idempotency.constants.js';
import {
  IdempotencyException,
  IdempotencyStepsChangedException,
  IdempotencyStoreUnavailableException,
  IdempotencyTransactionFailedException,
} from '../idempotency.exceptions.js';
import type { RouteOptions } from '../idempotency.options.js';
import { TransactionEndedByHandlerError } from '../persistence/key-store.js';
import { FencedOffError, type FinishedStep, type LeaseStore, type NewStep } from '../persistence/lease-store.js';
import { isRetryable } from '../persistence/sqlstate.js';
import { delay, rerunPauseMs } from '../timing.js';
import { DurableStepError } from './durable-step.error.js';
import type { LeaseHold } from './lease-hold.js';
import {
  type StepArguments,
  type StepCall,
  stepCall,
  type StepTools,
  type StepWork,
  type TransactionWork,
} from './step-call.js';
import { type Disagreement, StepMemory } from './step-memory.js';
import { outcomeAsJson, resultOf, type Serialized } from './step-outcome.js';
import { StepTransaction } from './step-transaction.js';

export type StepRules = Pick<RouteOptions, 'storeErrors' | 'isolation' | 'retries' | 'timeoutMs'>;

/** The step whose function is running, or that has set up what is running. */
const insideOf = new AsyncLocalStorage<{ owner: DurableSteps; name: string; over: boolean }>();

/** The steps of one attempt: those that an earlier one has finished are remembered, the others are run and stored. */
export class DurableSteps implements StepTools {
  private static readonly logger = new Logger('Idempotency');

  private readonly memory: StepMemory;
  /** What steps of this attempt have failed with. */
  private readonly failures = new Map<string, unknown>();
  private readonly running = new Set<Promise<unknown>>();
  private closed = false;
  private effectUnknown = false;

  constructor(
    finished: readonly FinishedStep[],
    private readonly attempt: number,
    private readonly hold: LeaseHold,
    private readonly store: LeaseStore,
    private readonly connections: Connections,
    private readonly options: StepRules,
  ) {
    this.memory = new StepMemory(finished);
  }

  /** Whether a step was begun, so that there may be an effect of it. */
  get hasBegun(): boolean {
    return this.memory.hasEntered;
  }

  get areRunning(): boolean {
    return this.running.size > 0;
  }

  /** Whether a step has had its effect, and nothing tells of it. */
  get lostAnEffect(): boolean {
    return this.effectUnknown;
  }

  /** @param isDone whether the handler has come to its end, and not failed on its way */
  disagreement(isDone: boolean): Disagreement | undefined {
    return this.memory.disagreement(isDone);
  }

  /** The handler has ended: no step begins any more, and those that it left running are waited for. */
  async close(): Promise<void> {
    this.closed = true;
    for (const step of this.running) {
      await step.catch((error: unknown) => DurableSteps.logger.error(errorWithoutValues(error))); // nobody may be there to see it
    }
  }

  step<T>(name: string, ...given: StepArguments<StepWork<T>>): Promise<Serialized<T>> {
    return this.once(name, given, async (step, run) => {
      const work = async (): Promise<string> => {
        const returned = await this.inside(step.name, run);
        return this.orEffectUnknown(() => outcomeAsJson(step.name, { returned }));
      };
      const { outcome, error } = await this.tryOut(step.name, work);
      failpoint('step: ran');
      await this.orEffectUnknown(() => this.add({ ...step, outcome }));
      return { outcome, error };
    });
  }

  transaction<T>(name: string, ...given: StepArguments<TransactionWork<T>>): Promise<Serialized<T>> {
    return this.once(name, given, async (step, run) => {
      const work = (manager: EntityManager): Promise<T> => this.inside(step.name, () => run(manager));
      const { outcome, error } = await this.tryOut(step.name, () => this.inTransaction(step, work));
      if (error !== undefined) {
        await this.add({ ...step, outcome }); // its writes are undone; that it has failed stays known
      }
      return { outcome, error };
    });
  }

  /** What comes between the effect of a step and its memory. */
  private async orEffectUnknown<T>(remember: () => T | Promise<T>): Promise<T> {
    try {
      return await remember();
    } catch (error) {
      this.effectUnknown = true;
      throw error;
    }
  }

  private async inside<T>(name: string, run: () => T | Promise<T>): Promise<T> {
    const place = { owner: this as DurableSteps, name, over: false };
    try {
      return await insideOf.run(place, run);
    } finally {
      place.over = true;
    }
  }

  private once<T, Run extends (...args: never[]) => T | Promise<T>>(
    name: string,
    given: StepArguments<Run>,
    perform: (step: Omit<NewStep, 'outcome'>, run: Run) => Promise<{ outcome: string; error: unknown }>,
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
    perform: (step: Omit<NewStep, 'outcome'>, run: Run) => Promise<{ outcome: string; error: unknown }>,
  ): Promise<Serialized<T>> {
    const call = stepCall(name, given);
    this.assertMayEnter(call);
    const position = this.memory.enter(call.id);
    try {
      return (await this.comeBy(call, position, perform)) as Serialized<T>;
    } catch (error) {
      this.failures.set(call.id, error);
      throw error;
    } finally {
      this.memory.leave();
    }
  }

  private async comeBy<Run>(
    { id, run }: StepCall<Run>,
    position: number,
    perform: (step: Omit<NewStep, 'outcome'>, run: Run) => Promise<{ outcome: string; error: unknown }>,
  ): Promise<unknown> {
    const known = this.memory.recall(id);
    if (known !== undefined) {
      return resultOf(known.outcome);
    }
    if (!(await this.memory.mayBegin())) {
      throw new IdempotencyStepsChangedException();
    }
    await this.hold.ensure();
    failpoint('step: starting');
    const { outcome, error } = await perform({ ...this.hold.holder, name: id, position, attempt: this.attempt }, run);
    failpoint('step: recorded');
    if (error !== undefined) {
      throw error;
    }
    return resultOf(JSON.parse(outcome) as FinishedStep['outcome']);
  }

  /** @throws DurableStepError */
  private assertMayEnter({ id }: StepCall<unknown>): void {
    if (this.closed) {
      throw new DurableStepError(`Step "${id}" is begun after its handler has ended.`);
    }
    const outer = insideOf.getStore();
    if (outer?.owner === this && !outer.over) {
      throw new DurableStepError(`Step "${id}" is begun inside of step "${outer.name}": steps come one after another.`);
    }
    if (this.memory.has(id)) {
      const cause = this.failures.get(id);
      const failure = cause instanceof Error ? ` The first one has failed: ${cause.message}` : '';
      throw new DurableStepError(
        `Two steps are named "${id}". Each step of a handler needs a name of its own; in a loop, give each the key of its item: ctx.step(name, { key: item.id }, run).${failure}`,
        { cause },
      );
    }
  }

  /** An error that the route stores is an outcome, too. */
  private async tryOut(name: string, run: () => Promise<string>): Promise<{ outcome: string; error: unknown }> {
    try {
      return { outcome: await run(), error: undefined };
    } catch (error) {
      if (!(error instanceof HttpException) || error instanceof IdempotencyException || !this.isStored(error)) {
        throw error;
      }
      const threw = { status: error.getStatus(), response: error.getResponse() };
      return { outcome: outcomeAsJson(name, { threw }), error };
    }
  }

  private isStored(error: HttpException): boolean {
    const status = error.getStatus();
    return status < 500 && this.options.storeErrors?.(status) === true;
  }

  private async inTransaction<T>(
    step: Omit<NewStep, 'outcome'>,
    run: (manager: EntityManager) => Promise<T>,
  ): Promise<string> {
    const { retries } = this.options;
    for (let tried = 1; ; tried++) {
      try {
        const transaction = new StepTransaction(this.hold, this.store, this.connections, this.options);
        return await transaction.run(step, run);
      } catch (error) {
        if (error instanceof FencedOffError) {
          throw this.hold.lose();
        }
        if (error instanceof TransactionEndedByHandlerError) {
          this.effectUnknown = true; // part of its writes may have been committed
          throw new IdempotencyTransactionFailedException(
            `Step "${step.name}" ended its transaction by a statement of its own, so its result could not be stored with its writes.`,
            { cause: error },
          );
        }
        if (!isRetryable(error) || tried > retries) {
          throw error;
        }
        await delay(rerunPauseMs(tried));
        await this.hold.ensure();
      }
    }
  }

  private async add(step: NewStep): Promise<void> {
    try {
      await this.connections.insist((client) => this.store.addStep(client, step), STORE_PATIENCE_MS);
    } catch (error) {
      if (error instanceof FencedOffError) {
        throw this.hold.lose();
      }
      throw new IdempotencyStoreUnavailableException('The result of a step could not be stored.', { cause: error });
    }
  }
}
