import { AsyncLocalStorage } from 'node:async_hooks';
import { HttpException, Logger } from '@nestjs/common';
import type { EntityManager } from 'typeorm';
import type { Connections } from '../connections.js';
import { failpoint } from '../failpoint.js';
import { STORE_PATIENCE_MS } from '../idempotency.constants.js';
import { IdempotencyException, IdempotencyStoreUnavailableException } from '../idempotency.exceptions.js';
import type { RouteOptions } from '../idempotency.options.js';
import { FencedOffError, type FinishedStep, type LeaseStore, type NewStep } from '../persistence/lease-store.js';
import { isRetryable } from '../persistence/sqlstate.js';
import { delay, rerunPauseMs } from '../timing.js';
import { DurableStepError } from './durable-step.error.js';
import type { LeaseHold } from './lease-hold.js';
import { outcomeAsJson, resultOf, type Serialized } from './step-outcome.js';
import { StepTransaction } from './step-transaction.js';

export type StepOptions = Pick<RouteOptions, 'storeErrors' | 'isolation' | 'retries' | 'timeoutMs'>;

const MAX_STEP_NAME_LENGTH = 255;

/** The step whose function is running, or that has set up what is running. */
const insideOf = new AsyncLocalStorage<{ owner: DurableSteps; name: string; over: boolean }>();

const LONE_SURROGATE = /\p{Surrogate}/u;

/** The steps of one attempt: those that an earlier one has finished are remembered, the others are run and stored. */
export class DurableSteps {
  private static readonly logger = new Logger('Idempotency');

  private readonly finished: Map<string, FinishedStep>;
  private readonly nameAt: Map<number, string>;
  private readonly entered = new Set<string>();
  private readonly running = new Set<Promise<unknown>>();
  private closed = false;
  private effectUnknown = false;

  constructor(
    finished: readonly FinishedStep[],
    private readonly attempt: number,
    private readonly hold: LeaseHold,
    private readonly store: LeaseStore,
    private readonly connections: Connections,
    private readonly options: StepOptions,
  ) {
    this.finished = new Map(finished.map((step) => [step.name, step]));
    this.nameAt = new Map(finished.map(({ position, name }) => [position, name]));
  }

  /** Whether a step was begun, so that there may be an effect of it. */
  get hasBegun(): boolean {
    return this.entered.size > 0;
  }

  get areRunning(): boolean {
    return this.running.size > 0;
  }

  /** Whether a step has had its effect, and nothing tells of it. */
  get lostAnEffect(): boolean {
    return this.effectUnknown;
  }

  /** The handler has ended: no step begins any more, and those that it left running are waited for. */
  async close(): Promise<void> {
    this.closed = true;
    for (const step of this.running) {
      await step.catch((error: unknown) => DurableSteps.logger.error(error)); // nobody may be there to see it
    }
  }

  step<T>(name: string, run: () => T | Promise<T>): Promise<Serialized<T>> {
    return this.once(name, async (step) => {
      const work = async (): Promise<string> => {
        const returned = await this.inside(name, run);
        return this.orEffectUnknown(() => outcomeAsJson(name, { returned }));
      };
      const { outcome, error } = await this.tryOut(name, work);
      failpoint('step: ran');
      await this.orEffectUnknown(() => this.add({ ...step, outcome }));
      return { outcome, error };
    });
  }

  transaction<T>(name: string, run: (manager: EntityManager) => T | Promise<T>): Promise<Serialized<T>> {
    return this.once(name, async (step) => {
      const work = (manager: EntityManager): Promise<T> => this.inside(name, () => run(manager));
      const { outcome, error } = await this.tryOut(name, () => this.inTransaction(step, work));
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

  private once<T>(
    name: string,
    perform: (step: Omit<NewStep, 'outcome'>) => Promise<{ outcome: string; error: unknown }>,
  ): Promise<Serialized<T>> {
    const step = this.carryOut<T>(name, perform);
    this.running.add(step);
    const isOver = (): void => void this.running.delete(step);
    step.then(isOver, isOver);
    return step;
  }

  private async carryOut<T>(
    name: string,
    perform: (step: Omit<NewStep, 'outcome'>) => Promise<{ outcome: string; error: unknown }>,
  ): Promise<Serialized<T>> {
    const position = this.enter(name);
    const known = this.finished.get(name);
    if (known !== undefined) {
      return resultOf(known.outcome) as Serialized<T>;
    }
    await this.hold.ensure();
    failpoint('step: starting');
    const { outcome, error } = await perform({ ...this.hold.holder, name, position, attempt: this.attempt });
    failpoint('step: recorded');
    if (error !== undefined) {
      throw error;
    }
    return resultOf(JSON.parse(outcome) as FinishedStep['outcome']) as Serialized<T>;
  }

  /** Its place in the order of steps. @throws DurableStepError where that is not the one of earlier attempts */
  private enter(name: string): number {
    if (this.closed) {
      throw new DurableStepError(`Step "${name}" is begun after its handler has ended.`);
    }
    const outer = insideOf.getStore();
    if (outer?.owner === this && !outer.over) {
      throw new DurableStepError(
        `Step "${name}" is begun inside of step "${outer.name}": steps come one after another.`,
      );
    }
    const isText = typeof name === 'string' && !name.includes('\0') && !LONE_SURROGATE.test(name);
    if (!isText || name.length < 1 || name.length > MAX_STEP_NAME_LENGTH) {
      throw new DurableStepError(`The name of a step must have 1 to ${MAX_STEP_NAME_LENGTH} characters.`);
    }
    if (this.entered.has(name)) {
      throw new DurableStepError(`Two steps are named "${name}". Each step of a handler needs a name of its own.`);
    }
    const position = this.entered.size + 1;
    const [before, expected] = [this.finished.get(name)?.position ?? position, this.nameAt.get(position) ?? name];
    if (before !== position || expected !== name) {
      const was = before === position ? `"${expected}" was step ${position}` : `it was step ${before}`;
      throw new DurableStepError(
        `The order of steps has changed since an earlier attempt: "${name}" is step ${position} now, where ${was}. ` +
          'Finish what was begun with the code that began it, or let an operator resolve or forget the key.',
      );
    }
    this.entered.add(name);
    return position;
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
