import { expect } from '@jest/globals';
import type { Slot } from './model.js';
import { always, Step } from './step.js';
import { SLOTS } from './system.js';

export function expire(slot: Slot): Step {
  return new Step(`expire(${JSON.stringify(slot)})`, always, async (model, system) => {
    await system.expire(slot);
    model.expire(slot);
  });
}

export function forget(slot: Slot, instance: number): Step {
  return new Step(`forget(${JSON.stringify({ slot, instance })})`, always, async (model, system) => {
    expect(await system.service(instance).forget(slot.key, slot.scope)).toBe(model.forget(slot));
  });
}

export function purge(instance: number): Step {
  return new Step(`purge(${instance})`, always, async (model, system) => {
    expect(await system.service(instance).purge()).toBe(model.purge());
  });
}

export function find(instance: number): Step {
  return new Step(`find(${instance})`, always, async (model, system) => {
    for (const slot of SLOTS) {
      const { row } = model.keyOf(slot);
      const found = await system.service(instance).find(slot.key, slot.scope);
      expect(
        found?.state === 'completed' ? { status: found.status, bodyKept: found.bodyKept, path: found.path } : found,
      ).toEqual(
        row && !row.expired ? { status: row.status, bodyKept: row.body !== null, path: '/operations' } : undefined,
      );
    }
  });
}
