import * as fc from 'fast-check';
import { StateMachineModel } from './model.js';
import { System } from './system.js';

/** One command; what it is made of is in its name, for the report of a failure. */
export class Step implements fc.AsyncCommand<StateMachineModel, System> {
  constructor(
    private readonly name: string,
    private readonly isPossible: (model: Readonly<StateMachineModel>) => boolean,
    private readonly perform: (model: StateMachineModel, system: System) => Promise<void>,
  ) {}

  check(model: Readonly<StateMachineModel>): boolean {
    return this.isPossible(model);
  }

  async run(model: StateMachineModel, system: System): Promise<void> {
    await this.perform(model, system);
    await system.mustBe(model);
  }

  toString(): string {
    return this.name;
  }
}

export const always = (): boolean => true;

export const isAnyHeld = (model: Readonly<StateMachineModel>): boolean => model.holders.length > 0;
