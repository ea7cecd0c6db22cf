// oxlint-disable jest/no-conditional-expect, jest/no-standalone-expect, jest/expect-expect -- the commands of a model make the claims, not the test that runs them
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Body, Controller, type ExecutionContext, Headers, HttpException, Post, Res } from '@nestjs/common';
import { InjectRepository } from '@nestjs/typeorm';
import * as fc from 'fast-check';
import { Client, type Pool } from 'pg';
import type { Repository } from 'typeorm';
import { Idempotent, IdempotencyContext, IdempotencyService } from '../../src/index.js';
import { createTestDatabase, type TestDatabase } from '../support/database.js';
import { Effect } from '../support/effect.entity.js';
import { type OpenRequest, openRequest, type RawResponse } from '../support/raw-http.js';
import {
  type Answer,
  contentOf,
  effectsOf,
  type Exchange,
  MAX_BODY_BYTES,
  nameOf,
  OPERATIONS,
  type Operation,
  type Payload,
  type Slot,
  StateMachineModel,
} from '../support/state-machine-model.js';
import { type Adapter, ADAPTERS, createTestApp, IS_POOLED, type TestApp } from '../support/test-app.js';
import { waitFor } from '../support/wait-for.js';

/**
 * Model-based test: random commands against two applications over one database, and against the model of a key. After
 * each command both tables, the locks and every answer must be what the model says.
 *
 * A failure prints a seed, a path and a replay path. STATE_MACHINE_SEED, STATE_MACHINE_PATH and
 * STATE_MACHINE_REPLAY_PATH run it again; STATE_MACHINE_RUNS sets the number of runs for each adapter.
 */
const environment = (name: string): string | undefined => process.env[`STATE_MACHINE_${name}`];

const RUNS = Number(environment('RUNS') ?? 25);
const MAX_COMMANDS = 40;

/** Shrinking a failure ends here at the latest; a run that passes is done long before. */
const TIME_LIMIT_MS = environment('RUNS') === undefined ? 60_000 : 3_600_000;

/** Far beyond what a held request is held for. */
const WAIT_MS = 30_000;

/** A duplicate of a running request is refused by the first application and waits at the second. */
const POLICIES = ['reject', { waitMs: WAIT_MS }] as const;

const SLOTS: Slot[] = [
  { scope: '', key: 'one' },
  { scope: '', key: 'two' },
  { scope: 'tenant', key: 'one' },
];

interface Gate {
  run: string;
  open: () => void;
  /** Resolves when the server is done with the request, whether or not its client is still there. */
  closed: Promise<unknown>;
}

const gates = new Map<string, Gate>();

type HoldingPlace = 'between the writes' | 'behind the writes';

/** Express' response, or Fastify's reply. */
interface AnyResponse {
  header(name: string, value: string): AnyResponse;
  status(code: number): AnyResponse;
  raw?: ServerResponse;
}

@Controller()
class OperationsController {
  constructor(@InjectRepository(Effect) private readonly effects: Repository<Effect>) {}

  @Post('operations')
  @Idempotent({ storeErrors: (status) => status === 402, maxBodyBytes: MAX_BODY_BYTES })
  async operate(
    @Body() payload: Payload,
    @Headers('x-hold') held: string | undefined,
    @IdempotencyContext() slot: IdempotencyContext,
    @Res({ passthrough: true }) response: AnyResponse,
  ): Promise<object> {
    const run = randomUUID();
    const pass = (place: HoldingPlace): unknown =>
      held === place
        ? new Promise<void>((open) => {
            gates.set(nameOf(slot), { run, open, closed: once(response.raw ?? (response as never), 'close') });
          })
        : undefined;
    const [before, after] = effectsOf(slot, payload, run);
    const { status } = OPERATIONS[payload.operation];
    response.header('X-Run', run);
    await this.effects.save({ label: before });
    await pass('between the writes');
    await this.effects.save({ label: after });
    await pass('behind the writes');
    switch (payload.operation) {
      case 'throw':
        throw new Error('as asked');
      case 'refuse':
      case 'reject':
        throw new HttpException(contentOf(payload, run), status);
      case 'decline':
      case 'fail':
        response.status(status);
    }
    return contentOf(payload, run);
  }
}

/** How a client may write the same request. */
interface Spelling {
  quotedKey: boolean;
  reordered: boolean;
}

const PLAIN: Spelling = { quotedKey: false, reordered: false };

interface Held {
  gate: Gate;
  request: OpenRequest;
  hungUp: boolean;
  /** A duplicate that waits at the second application. At most one, so that what it meets is known. */
  waiting?: OpenRequest;
}

interface Observed {
  rows: { name: string; status: number; body: string | null; expired: boolean; fingerprint: string }[];
  effects: string[];
  locks: number;
}

/** The real thing. */
class System {
  readonly held = new Map<string, Held>();
  private readonly instances: TestApp[] = [];
  private readonly fingerprints = new Map<string, string>();

  private constructor(
    private readonly adapter: Adapter,
    private readonly database: TestDatabase,
    private readonly admin: Client,
  ) {}

  static async start(adapter: Adapter): Promise<System> {
    const database = await createTestDatabase();
    const admin = new Client(database.url);
    await admin.connect();
    const system = new System(adapter, database, admin);
    for (const index of POLICIES.keys()) await system.boot(index);
    return system;
  }

  async stop(): Promise<void> {
    await this.reset();
    await Promise.all(this.instances.map((instance) => instance.close()));
    await this.admin.end();
    await this.database.drop();
  }

  /** Ends what a run left behind, also one that failed in the middle. */
  async reset(): Promise<void> {
    [...gates.values(), ...[...this.held.values()].map(({ gate }) => gate)].forEach(({ open }) => open());
    gates.clear();
    const open = [...this.held.values()].flatMap(({ request, waiting }) => [request, ...(waiting ? [waiting] : [])]);
    await Promise.allSettled(open.map(({ response }) => response));
    await waitFor(async () => (await this.observe()).locks === 0, { what: 'the end of the requests of the last run' });
    this.held.clear();
    await this.admin.query('delete from idempotency_keys; delete from effects');
  }

  open(
    instance: number,
    slot: Slot,
    { operation, amount }: Payload,
    spelling: Spelling = PLAIN,
    place?: HoldingPlace,
  ): Promise<OpenRequest> {
    return openRequest(this.instances[instance]!.port, {
      method: 'POST',
      path: '/operations',
      headers: [
        ['Content-Type', 'application/json'],
        ['Idempotency-Key', spelling.quotedKey ? `"${slot.key}"` : slot.key],
        ['X-Tenant', slot.scope],
        ...(place === undefined ? [] : [['X-Hold', place] as const]),
      ],
      body: spelling.reordered
        ? ` { "amount": ${amount}, "operation": "${operation}" }`
        : JSON.stringify({ operation, amount }),
    });
  }

  service(instance: number): IdempotencyService {
    return this.instances[instance]!.app.get(IdempotencyService);
  }

  async expire({ scope, key }: Slot): Promise<void> {
    await this.admin.query(
      `update idempotency_keys set created_at = clock_timestamp() - interval '1 hour', expires_at = clock_timestamp()
       where scope = $1 and key = $2`,
      [scope, key],
    );
  }

  /** Ends the connections of one application; behind a pooler, those that it has for a transaction. */
  async cut(index: number): Promise<void> {
    await this.admin.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where application_name = $1 and ($2 or state <> 'idle')`,
      [applicationName(index), !IS_POOLED],
    );
    const { master: pool } = this.instances[index]!.dataSource.driver as unknown as { master: Pool };
    await waitFor(() => pool.totalCount === (IS_POOLED ? pool.idleCount : 0), { what: 'the pool to have noticed' });
  }

  /** Shuts one application down, in the middle of what it does; `meanwhile` lets that go on. */
  async restart(index: number, meanwhile: () => Promise<void>): Promise<void> {
    const closing = this.instances[index]!.close();
    await meanwhile();
    await closing;
    await this.boot(index);
  }

  async observe(): Promise<Observed> {
    const results = (await this.admin.query(`
      select scope || '/' || key as name, response_status as status, convert_from(response_body, 'utf8') as body,
        expires_at <= clock_timestamp() as expired, encode(fingerprint, 'hex') as fingerprint
      from idempotency_keys order by (scope || '/' || key) collate "C";
      select label from effects order by label collate "C";
      select count(*)::int4 as locks from pg_locks
      where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`)) as unknown as {
      rows: Record<string, unknown>[];
    }[];
    return {
      rows: results[0]!.rows as unknown as Observed['rows'],
      effects: results[1]!.rows.map(({ label }) => label as string),
      locks: results[2]!.rows[0]!['locks'] as number,
    };
  }

  /** What must hold whenever no request is on its way but the held ones. */
  async mustBe(model: StateMachineModel): Promise<void> {
    const observed = await waitFor(
      async () => {
        const found = await this.observe();
        return found.locks === model.holders.length ? found : undefined;
      },
      { what: `${model.holders.length} keys to be claimed` },
    );
    expect(observed.effects).toEqual(model.effects);
    expect(observed.rows.map(({ name, status, body, expired }) => ({ name, status, body, expired }))).toEqual(
      model.rows.map(([name, { status, body, expired }]) => ({ name, status, body, expired })),
    );
    for (const [index, [, { payload }]] of model.rows.entries())
      this.compareFingerprint(payload, observed.rows[index]!.fingerprint);
    expect(new Set(this.fingerprints.values()).size).toBe(this.fingerprints.size);
  }

  /** The same for the same payload, whoever computed it and when. */
  private compareFingerprint({ operation, amount }: Payload, fingerprint: string): void {
    const name = `${operation} ${amount}`;
    this.fingerprints.set(name, this.fingerprints.get(name) ?? fingerprint);
    expect(fingerprint).toBe(this.fingerprints.get(name));
  }

  private async boot(index: number): Promise<void> {
    this.instances[index] = await createTestApp({
      adapter: this.adapter,
      controllers: [OperationsController],
      databaseUrl: this.database.url,
      instances: 1, // there are two applications already, and the commands say which one is asked
      extra: { application_name: applicationName(index) },
      idempotency: {
        inFlight: POLICIES[index]!,
        purge: false,
        scope: (context: ExecutionContext) =>
          context.switchToHttp().getRequest<{ headers: Record<string, string> }>().headers['x-tenant']!,
      },
    });
  }
}

function applicationName(index: number): string {
  return `state machine ${index}`;
}

const PROBLEMS: Record<string, (Answer & { run?: never })['kind']> = {
  '409 request-in-flight': 'in flight',
  '409 response-not-kept': 'not kept',
  '422 key-reused': 'mismatch',
  '503 store-unavailable': 'unavailable',
};

function answerOf(response: RawResponse): Answer {
  const header = (name: string): string | undefined =>
    response.headerLines.find((line) => line.toLowerCase().startsWith(`${name}: `))?.slice(name.length + 2);
  const body = response.body.toString();
  if (header('content-type')?.startsWith('application/problem+json')) {
    const { type, status } = JSON.parse(body) as { type: string; status: number };
    const kind = PROBLEMS[`${response.status} ${type.split(':').at(-1)}`];
    if (kind === undefined) throw new Error(`An unexpected problem: ${body}`);
    expect(status).toBe(response.status);
    expect(header('retry-after') !== undefined).toBe(kind === 'in flight' || kind === 'unavailable');
    return { kind };
  }
  const run = header('x-run');
  if (run === undefined) throw new Error(`Neither a problem nor the handler's answer: ${response.raw.toString()}`);
  const kind = header('idempotency-replayed') === 'true' ? 'replayed' : 'ran';
  return { kind, run, status: response.status, body };
}

/** One command; what it is made of is in its name, for the report of a failure. */
class Step implements fc.AsyncCommand<StateMachineModel, System> {
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

const always = (): boolean => true;

/** One request or several at once, on the same key. */
function send(
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
function hold(slot: Slot, instance: number, payload: Payload, place: HoldingPlace): Step {
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
function hangUp(): Step {
  return new Step('hangUp()', isAnyHeld, async (_, system) => {
    for (const held of system.held.values()) {
      held.hungUp = true;
      held.request.destroy();
    }
  });
}

const isAnyHeld = (model: Readonly<StateMachineModel>): boolean => model.holders.length > 0;

/** For each held key a duplicate, the same or another, that is to wait for the end. */
function wait(payload: Payload, again: boolean): Step {
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

async function letFinish(model: StateMachineModel, system: System, slot: Slot): Promise<void> {
  const { gate, request, hungUp, waiting } = system.held.get(nameOf(slot))!;
  system.held.delete(nameOf(slot));
  const waitingFor = model.keyOf(slot).holder!.waiting;
  const expected = model.finish(slot);
  gate.open();
  if (hungUp) await within(gate.closed);
  else expect(answerOf(await request.response)).toEqual(expected);
  await takeWaiting(model, slot, waitingFor, waiting);
}

async function takeWaiting(
  model: StateMachineModel,
  slot: Slot,
  payload: Payload | undefined,
  waiting: OpenRequest | undefined,
): Promise<void> {
  if (payload === undefined || waiting === undefined) return;
  model.take(slot, [{ payload, waits: true, answer: answerOf(await waiting.response) }]);
}

/** One of the held requests goes on. */
function finish(slot: Slot): Step {
  return new Step(`finish(${JSON.stringify(slot)})`, isAnyHeld, async (model, system) => {
    const held = SLOTS.filter((candidate) => model.keyOf(candidate).holder !== undefined);
    await letFinish(model, system, held.includes(slot) ? slot : held[0]!);
  });
}

function expire(slot: Slot): Step {
  return new Step(`expire(${JSON.stringify(slot)})`, always, async (model, system) => {
    await system.expire(slot);
    model.expire(slot);
  });
}

function forget(slot: Slot, instance: number): Step {
  return new Step(`forget(${JSON.stringify({ slot, instance })})`, always, async (model, system) => {
    expect(await system.service(instance).forget(slot.key, slot.scope)).toBe(model.forget(slot));
  });
}

function purge(instance: number): Step {
  return new Step(`purge(${instance})`, always, async (model, system) => {
    expect(await system.service(instance).purge()).toBe(model.purge());
  });
}

function find(instance: number): Step {
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

/**
 * The connections of an application are ended under its handlers. Their keys are free at once, and taken over where
 * `takenOver` says so; then the handlers go on, and must not get anything done any more.
 */
function cut(instance: number, takenOver: Payload | undefined): Step {
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
function crash(instance: number): Step {
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
function restart(instance: number): Step {
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

async function within(closed: Promise<unknown>): Promise<void> {
  let isClosed = false;
  void closed.then(() => (isClosed = true));
  await waitFor(() => isClosed, { what: 'the end of a request whose client has gone' });
}

const slots = fc.constantFrom(...SLOTS);
const instances = fc.constantFrom(0, 1);
const spellings = fc.record({ quotedKey: fc.boolean(), reordered: fc.boolean() });
const operations = fc.oneof(
  { arbitrary: fc.constant<Operation>('succeed'), weight: 3 },
  { arbitrary: fc.constantFrom(...(Object.keys(OPERATIONS) as Operation[])), weight: 4 },
);
const payloads = fc.record({ operation: operations, amount: fc.constantFrom(1, 2) });
const again = fc.oneof({ arbitrary: fc.constant(true), weight: 3 }, { arbitrary: fc.constant(false), weight: 1 });
const places = fc.constantFrom<HoldingPlace>('between the writes', 'behind the writes');
const requests = fc.record({ instance: instances, payload: payloads, again, spelling: spellings });

/** `fc.commands()` picks evenly, so what is to come more often is in here more than once. */
const commands = [
  ...Array.from({ length: 5 }, () => fc.tuple(slots, fc.array(requests, { minLength: 1, maxLength: 1 }))),
  ...Array.from({ length: 3 }, () => fc.tuple(slots, fc.array(requests, { minLength: 2, maxLength: 5 }))),
].map((arguments_) => arguments_.map(([slot, list]) => send(slot, list)));

const COMMANDS: fc.Arbitrary<Step>[] = [
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

describe.each(ADAPTERS)('two applications over one database, on %s', (adapter) => {
  let system: System;

  beforeAll(async () => {
    system = await System.start(adapter);
  });

  afterAll(async () => {
    await system.stop();
  });

  it(
    'do with each key what the model does, whatever is sent, cut, expired, purged and restarted in between',
    async () => {
      const seed = environment('SEED');
      await fc.assert(
        fc
          .asyncProperty(
            fc.commands(COMMANDS, {
              maxCommands: MAX_COMMANDS,
              size: 'max',
              replayPath: environment('REPLAY_PATH'),
            }),
            (steps) => fc.asyncModelRun(() => ({ model: new StateMachineModel(), real: system }), steps),
          )
          .beforeEach(() => system.reset()),
        {
          numRuns: RUNS,
          path: environment('PATH'),
          ...(seed === undefined ? {} : { seed: Number(seed) }),
          interruptAfterTimeLimit: TIME_LIMIT_MS,
          markInterruptAsFailure: true,
        },
      );
    },
    TIME_LIMIT_MS + 30_000,
  );
});
