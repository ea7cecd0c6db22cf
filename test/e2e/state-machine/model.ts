/**
 * What the library promises about one key, without a database, a server or a clock: absent, in flight, completed, or
 * completed with a response too large to keep. Nothing in here calls the library.
 */

/** Above this the response is sent, but not kept. */
export const MAX_BODY_BYTES = 1_000;

/**
 * What a handler may do, all after it has written: which status it ends with, what is kept of its response, and
 * whether its writes are.
 */
export const OPERATIONS = {
  succeed: { status: 201, keeps: 'response', writes: true },
  /** Returns normally, with a status that says no. */
  decline: { status: 409, keeps: 'response', writes: true },
  /** Throws an error that the route's `storeErrors` accepts. */
  refuse: { status: 402, keeps: 'response', writes: false },
  oversize: { status: 201, keeps: 'tombstone', writes: true },
  /** Throws what no filter knows. */
  throw: { status: 500, keeps: 'nothing', writes: false },
  /** Throws an HttpException that is not to be stored. */
  reject: { status: 400, keeps: 'nothing', writes: false },
  /** Returns normally, with a status of 500. */
  fail: { status: 500, keeps: 'nothing', writes: false },
} as const;

export type Operation = keyof typeof OPERATIONS;

export interface Payload {
  readonly operation: Operation;
  readonly amount: number;
}

export interface Slot {
  readonly scope: string;
  readonly key: string;
}

/** What a handler answers with: `run` names the one execution, so that no two have the same bytes. */
export function contentOf({ operation, amount }: Payload, run: string): object {
  return { operation, amount, run, ...(operation === 'oversize' ? { padding: 'x'.repeat(MAX_BODY_BYTES) } : {}) };
}

/** What a handler writes, before and after the point at which it can be held. */
export function effectsOf({ scope, key }: Slot, { operation, amount }: Payload, run: string): [string, string] {
  const label = [scope, key, operation, amount, run].join('/');
  return [`${label} before`, `${label} after`];
}

/** An answer, by what it says about the key. */
export type Answer =
  | { kind: 'ran'; run: string; status: number; body: string }
  | { kind: 'replayed'; run: string; status: number; body: string }
  | { kind: 'mismatch' | 'not kept' | 'in flight' | 'unavailable' };

export interface Row {
  readonly payload: Payload;
  readonly run: string;
  readonly status: number;
  /** Null for a response that was not kept. */
  readonly body: string | null;
  readonly expired: boolean;
}

interface Key {
  readonly row?: Row | undefined;
  readonly holder?: Holder | undefined;
}

/** A request that is held inside its handler. */
export interface Holder {
  readonly payload: Payload;
  readonly run: string;
  readonly instance: number;
  /** What a duplicate asks for that waits for its end. */
  readonly waiting?: Payload;
}

/** A request, and what came of it. */
export interface Exchange {
  readonly payload: Payload;
  /** What the instance does with a duplicate of a running request. */
  readonly waits: boolean;
  readonly answer: Answer;
}

export class StateMachineModel {
  private readonly keys = new Map<string, Key>();
  /** Sorted labels of all that was ever committed. */
  effects: string[] = [];

  keyOf(slot: Slot): Key {
    return this.keys.get(nameOf(slot)) ?? {};
  }

  /** Rows that must be in the table, whether or not they have expired. */
  get rows(): [name: string, row: Row][] {
    return [...this.keys]
      .flatMap(([name, { row }]): [string, Row][] => (row === undefined ? [] : [[name, row]]))
      .toSorted(([one], [other]) => (one < other ? -1 : 1));
  }

  get holders(): Holder[] {
    return [...this.keys.values()].flatMap(({ holder }) => holder ?? []);
  }

  /** What a retry of the last request for this key asks for. */
  lastPayload(slot: Slot): Payload | undefined {
    const { row, holder } = this.keyOf(slot);
    return holder?.payload ?? row?.payload;
  }

  get expiredRows(): number {
    return this.rows.filter(([, row]) => row.expired).length;
  }

  /** What a request meets that comes now, and alone. */
  wouldMeet(slot: Slot, payload: Payload): 'runs' | 'replayed' | 'mismatch' | 'not kept' | 'in flight' {
    return meets(this.keyOf(slot), payload);
  }

  /**
   * Takes in requests that ran side by side.
   *
   * @throws Error when no order of them explains the answers
   */
  take(slot: Slot, exchanges: readonly Exchange[]): void {
    const key = this.keyOf(slot);
    const refused = exchanges.filter(({ answer }) => answer.kind === 'in flight');
    const ended = exchanges.filter(({ answer }) => answer.kind !== 'in flight');
    const isRunning = key.holder !== undefined || ended.some(({ answer }) => answer.kind === 'ran');
    const after = refused.every(({ waits }) => isRunning && !waits) ? inSomeOrder(key, ended) : undefined;
    if (after === undefined) {
      throw new Error(`No order of them explains ${JSON.stringify({ slot, before: key, exchanges }, undefined, 2)}`);
    }
    this.keys.set(nameOf(slot), after);
    for (const { payload, answer } of ended) {
      if (answer.kind === 'ran') this.write(slot, payload, answer.run);
    }
  }

  hold(slot: Slot, holder: Holder): void {
    this.keys.set(nameOf(slot), { ...this.keyOf(slot), holder });
  }

  /** The held request went on to its end. */
  finish(slot: Slot): Answer {
    const { row, holder } = this.keyOf(slot);
    if (holder === undefined) throw new Error('There is nothing to finish.');
    const { payload, run } = holder;
    this.keys.set(nameOf(slot), afterRunning({ row }, payload, run));
    this.write(slot, payload, run);
    return { kind: 'ran', run, status: OPERATIONS[payload.operation].status, body: bodyOf(payload, run) };
  }

  /** The held request lost its transaction. */
  lose(slot: Slot): void {
    this.keys.set(nameOf(slot), { row: this.keyOf(slot).row });
  }

  expire(slot: Slot): void {
    const { row, holder } = this.keyOf(slot);
    this.keys.set(nameOf(slot), { row: row && { ...row, expired: true }, holder });
  }

  forget(slot: Slot): boolean {
    const { row, holder } = this.keyOf(slot);
    this.keys.set(nameOf(slot), { holder });
    return row !== undefined;
  }

  purge(): number {
    const { expiredRows } = this;
    for (const [name, { row, holder }] of this.keys) {
      this.keys.set(name, { row: row?.expired ? undefined : row, holder });
    }
    return expiredRows;
  }

  private write(slot: Slot, payload: Payload, run: string): void {
    if (OPERATIONS[payload.operation].writes) {
      this.effects = [...this.effects, ...effectsOf(slot, payload, run)].toSorted();
    }
  }
}

export function nameOf({ scope, key }: Slot): string {
  return `${scope}/${key}`;
}

export function bodyOf(payload: Payload, run: string): string {
  return payload.operation === 'throw'
    ? '{"statusCode":500,"message":"Internal server error"}'
    : JSON.stringify(contentOf(payload, run));
}

function meets({ row, holder }: Key, payload: Payload): ReturnType<StateMachineModel['wouldMeet']> {
  if (row !== undefined && !row.expired) {
    if (row.payload.operation !== payload.operation || row.payload.amount !== payload.amount) return 'mismatch';
    return row.body === null ? 'not kept' : 'replayed';
  }
  return holder === undefined ? 'runs' : 'in flight';
}

/** The key's state when the exchanges took place one after another in some order, or `undefined` when they cannot have. */
function inSomeOrder(key: Key, exchanges: readonly Exchange[]): Key | undefined {
  if (exchanges.length === 0) return key;
  for (const [index, { payload, answer }] of exchanges.entries()) {
    if (!isRightAnswer(key, payload, answer)) continue;
    const after = answer.kind === 'ran' ? afterRunning(key, payload, answer.run) : key;
    const rest = inSomeOrder(after, exchanges.toSpliced(index, 1));
    if (rest !== undefined) return rest;
  }
  return undefined;
}

function isRightAnswer(key: Key, payload: Payload, answer: Answer): boolean {
  switch (meets(key, payload)) {
    case 'runs':
      return (
        answer.kind === 'ran' &&
        answer.status === OPERATIONS[payload.operation].status &&
        answer.body === bodyOf(payload, answer.run)
      );
    case 'replayed': {
      const { run, status, body } = key.row!;
      return answer.kind === 'replayed' && answer.run === run && answer.status === status && answer.body === body;
    }
    case 'mismatch':
      return answer.kind === 'mismatch';
    case 'not kept':
      return answer.kind === 'not kept';
    case 'in flight':
      return answer.kind === 'in flight';
  }
}

function afterRunning({ row }: Key, payload: Payload, run: string): Key {
  const { status, keeps } = OPERATIONS[payload.operation];
  switch (keeps) {
    case 'nothing':
      return { row }; // one that has expired stays where it is
    case 'tombstone':
      return { row: { payload, run, status, body: null, expired: false } };
    case 'response':
      return { row: { payload, run, status, body: bodyOf(payload, run), expired: false } };
  }
}
