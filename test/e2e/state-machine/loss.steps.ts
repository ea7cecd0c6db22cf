import { expect } from '@jest/globals';
import { type Answer, nameOf, OPERATIONS, type Payload, type Slot, StateMachineModel } from './model.js';
import { waitFor } from '../../support/wait-for.js';
import { answerOf } from './answers.js';
import { letFinish, takeWaiting } from './request.steps.js';
import { Step } from './step.js';
import { POLICIES, SLOTS, System } from './system.js';

/**
 * The connections of an application are ended under its handlers. Their keys are free at once, and taken over where
 * `takenOver` says so; then the handlers go on, and must not get anything done any more.
 */
export function cut(instance: number, takenOver: Payload | undefined): Step {
  return new Step(`cut(${JSON.stringify({ instance, takenOver })})`, mayBeHurt(instance), async (model, system) => {
    await system.cut(instance);
    await abandon(model, system, instance, async (slot) => {
      if (takenOver === undefined) return;
      const { response } = await system.open(1 - instance, slot, takenOver);
      model.take(slot, [{ payload: takenOver, waits: true, answer: answerOf(await response) }]);
    });
  });
}

/** The application goes without a word: no answer to its clients, no COMMIT. The next one finds what it left. */
export function crash(instance: number): Step {
  return new Step(`crash(${instance})`, mayBeHurt(instance), async (model, system) => {
    await system.cut(instance);
    for (const slot of slotsHeldBy(model, instance)) {
      const held = system.held.get(nameOf(slot))!;
      held.hungUp = true;
      held.request.destroy();
    }
    await system.restart(instance, () => abandon(model, system, instance, async () => {}));
  });
}

/** An orderly shutdown: what is in flight is finished and answered. */
export function restart(instance: number): Step {
  return new Step(`restart(${instance})`, mayBeHurt(instance), (model, system) =>
    system.restart(instance, async () => {
      for (const slot of slotsHeldBy(model, instance)) await letFinish(model, system, slot);
    }),
  );
}

/** A duplicate that waits at an application which goes away may be answered in more than one way. */
function mayBeHurt(instance: number) {
  return (model: Readonly<StateMachineModel>): boolean =>
    POLICIES[instance] === 'reject' || model.holders.every(({ waiting }) => waiting === undefined);
}

function slotsHeldBy(model: StateMachineModel, instance: number): Slot[] {
  return SLOTS.filter((slot) => model.keyOf(slot).holder?.instance === instance);
}

/** Lets handlers go on that have lost their transactions. */
async function abandon(
  model: StateMachineModel,
  system: System,
  instance: number,
  meanwhile: (slot: Slot) => Promise<void>,
): Promise<void> {
  for (const slot of slotsHeldBy(model, instance)) {
    const { gate, request, hungUp, waiting } = system.held.get(nameOf(slot))!;
    const { payload, waiting: waitingFor } = model.keyOf(slot).holder!;
    system.held.delete(nameOf(slot));
    model.lose(slot);
    await takeWaiting(model, slot, waitingFor, waiting);
    await meanwhile(slot);
    gate.open();
    if (hungUp) await within(gate.closed);
    else checkAbandoned(model, slot, payload, answerOf(await request.response));
  }
}

/**
 * Whatever the handler ended with, it is not to be told that it succeeded: 503, or what the key holds now. An error of
 * its own that is not stored may pass.
 */
function checkAbandoned(model: StateMachineModel, slot: Slot, payload: Payload, answer: Answer): void {
  if (answer.kind === 'unavailable') return;
  if (answer.kind === 'ran') {
    expect([OPERATIONS[payload.operation].keeps, answer.status]).toEqual([
      'nothing',
      OPERATIONS[payload.operation].status,
    ]);
    return;
  }
  expect(answer.kind).not.toBe('in flight');
  model.take(slot, [{ payload, waits: false, answer }]);
}

export async function within(closed: Promise<unknown>): Promise<void> {
  let isClosed = false;
  void closed.then(() => (isClosed = true));
  await waitFor(() => isClosed, { what: 'the end of a request whose client has gone' });
}
