import { expect } from '@jest/globals';
import type { OpenRequest } from '../../support/raw-http.js';
import { type Exchange, nameOf, type Payload, type Slot, StateMachineModel } from './model.js';
import { waitFor } from '../../support/wait-for.js';
import { answerOf } from './answers.js';
import { within } from './loss.steps.js';
import { gates, type HoldingPlace } from './operations.controller.js';
import { isAnyHeld, Step } from './step.js';
import { PLAIN, POLICIES, SLOTS, type Spelling, System } from './system.js';

/** One request or several at once, on the same key. */
export function send(
  slot: Slot,
  requests: { instance: number; payload: Payload; again: boolean; spelling: Spelling }[],
): Step {
  const sendable = (model: Readonly<StateMachineModel>) =>
    // What comes to the second application would wait for as long as the key is held: that is a step of its own.
    requests.filter(({ instance }) => model.keyOf(slot).holder === undefined || POLICIES[instance] === 'reject');
  return new Step(
    `send(${JSON.stringify({ slot, requests })})`,
    (model) => sendable(model).length > 0,
    async (model, system) => {
      const exchanges = sendable(model).map(async ({ instance, payload, again, spelling }): Promise<Exchange> => {
        const asked = (again ? model.lastPayload(slot) : undefined) ?? payload;
        const { response } = await system.open(instance, slot, asked, spelling);
        return { payload: asked, waits: POLICIES[instance] !== 'reject', answer: answerOf(await response) };
      });
      model.take(slot, await Promise.all(exchanges));
    },
  );
}

/** A request that stays in its handler until it is told to go on. */
export function hold(slot: Slot, instance: number, payload: Payload, place: HoldingPlace): Step {
  return new Step(
    `hold(${JSON.stringify({ slot, instance, payload, place })})`,
    (model) => model.wouldMeet(slot, payload) === 'runs',
    async (model, system) => {
      const request = await system.open(instance, slot, payload, PLAIN, place);
      const gate = await waitFor(() => gates.get(nameOf(slot)), { what: 'the handler to be reached' });
      gates.delete(nameOf(slot));
      system.held.set(nameOf(slot), { gate, request, hungUp: false });
      model.hold(slot, { payload, instance, run: gate.run });
    },
  );
}

/** The clients of all held requests go away. */
export function hangUp(): Step {
  return new Step('hangUp()', isAnyHeld, async (_, system) => {
    for (const held of system.held.values()) {
      held.hungUp = true;
      held.request.destroy();
    }
  });
}

/** For each held key a duplicate, the same or another, that is to wait for the end. */
export function wait(payload: Payload, again: boolean): Step {
  const instance = POLICIES.findIndex((policy) => policy !== 'reject');
  return new Step(`wait(${JSON.stringify({ payload, again })})`, isAnyHeld, async (model, system) => {
    for (const slot of SLOTS) {
      const { holder } = model.keyOf(slot);
      if (holder === undefined || holder.waiting !== undefined) continue;
      const waiting = again ? holder.payload : payload;
      system.held.get(nameOf(slot))!.waiting = await system.open(instance, slot, waiting);
      model.hold(slot, { ...holder, waiting });
    }
  });
}

export async function letFinish(model: StateMachineModel, system: System, slot: Slot): Promise<void> {
  const { gate, request, hungUp, waiting } = system.held.get(nameOf(slot))!;
  system.held.delete(nameOf(slot));
  const waitingFor = model.keyOf(slot).holder!.waiting;
  const expected = model.finish(slot);
  gate.open();
  if (hungUp) await within(gate.closed);
  else expect(answerOf(await request.response)).toEqual(expected);
  await takeWaiting(model, slot, waitingFor, waiting);
}

export async function takeWaiting(
  model: StateMachineModel,
  slot: Slot,
  payload: Payload | undefined,
  waiting: OpenRequest | undefined,
): Promise<void> {
  if (payload === undefined || waiting === undefined) return;
  model.take(slot, [{ payload, waits: true, answer: answerOf(await waiting.response) }]);
}

/** One of the held requests goes on. */
export function finish(slot: Slot): Step {
  return new Step(`finish(${JSON.stringify(slot)})`, isAnyHeld, async (model, system) => {
    const held = SLOTS.filter((candidate) => model.keyOf(candidate).holder !== undefined);
    await letFinish(model, system, held.includes(slot) ? slot : held[0]!);
  });
}
