import * as fc from 'fast-check';
import { type Operation, OPERATIONS } from './model.js';
import { crash, cut, restart } from './loss.steps.js';
import type { HoldingPlace } from './operations.controller.js';
import { finish, hangUp, hold, send, wait } from './request.steps.js';
import { Step } from './step.js';
import { SLOTS } from './system.js';
import { expire, find, forget, purge } from './upkeep.steps.js';

const slots = fc.constantFrom(...SLOTS);
const instances = fc.constantFrom(0, 1);
const spellings = fc.record({ quotedKey: fc.boolean(), reordered: fc.boolean() });

const operations = fc.oneof(
  { arbitrary: fc.constant<Operation>('succeed'), weight: 3 },
  { arbitrary: fc.constantFrom(...(Object.keys(OPERATIONS) as Operation[])), weight: 4 },
);
const payloads = fc.record({ operation: operations, amount: fc.constantFrom(1, 2) });
export const again = fc.oneof(
  { arbitrary: fc.constant(true), weight: 3 },
  { arbitrary: fc.constant(false), weight: 1 },
);
const places = fc.constantFrom<HoldingPlace>('between the writes', 'behind the writes');
export const requests = fc.record({ instance: instances, payload: payloads, again, spelling: spellings });

/** `fc.commands()` picks evenly, so what is to come more often is in here more than once. */
const commands = [
  ...Array.from({ length: 5 }, () => fc.tuple(slots, fc.array(requests, { minLength: 1, maxLength: 1 }))),
  ...Array.from({ length: 3 }, () => fc.tuple(slots, fc.array(requests, { minLength: 2, maxLength: 5 }))),
].map((arguments_) => arguments_.map(([slot, list]) => send(slot, list)));

export const COMMANDS: fc.Arbitrary<Step>[] = [
  ...commands,
  ...Array.from({ length: 6 }, () => fc.tuple(slots, instances, payloads, places).map((args) => hold(...args))),
  ...Array.from({ length: 5 }, () => slots.map(finish)),
  fc.constant(hangUp()),
  fc.tuple(payloads, again).map((args) => wait(...args)),
  fc.tuple(payloads, again).map((args) => wait(...args)),
  slots.map(expire),
  slots.map(expire),
  fc.tuple(slots, instances).map((args) => forget(...args)),
  instances.map(find),
  instances.map(purge),
  fc.tuple(instances, fc.option(payloads, { nil: undefined })).map((args) => cut(...args)),
  fc.tuple(instances, fc.option(payloads, { nil: undefined })).map((args) => cut(...args)),
  fc.tuple(instances, fc.boolean()).map(([instance, crashes]) => (crashes ? crash(instance) : restart(instance))),
];
