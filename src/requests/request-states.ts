/** Where a run of a request stands. What each means is said in ARCHITECTURE.md, whose table a test holds to this one. */
export type State =
  | 'received'
  | 'claiming'
  | 'running'
  | 'answered'
  | 'returned'
  | 'failed'
  | 'pausing'
  | 'deciding'
  | 'recording'
  | 'resolving'
  | 'rolling back'
  | End;

/** How a run ends. */
export type End = 'passed' | 'sent' | 'replayed' | 'problem' | 'superseded';

export type Event =
  | 'key accepted'
  | 'no key'
  | 'claimed'
  | 'found recorded'
  | 'refused'
  | 'handler returned'
  | 'handler threw'
  | 'to run again'
  | 'response ended'
  | 'response outgrown'
  | 'time limit'
  | 'outer gone'
  | 'next run'
  | 'to record'
  | 'to roll back'
  | 'committed'
  | 'commit unknown'
  | 'not recorded'
  | 'rolled back';

/**
 * Every transition there is; a state that is named as its own successor takes note of the event and stays. Handler and
 * response end in either order: with `@Res()` the bytes may be complete first.
 */
export const TRANSITIONS: Readonly<Record<State, Partial<Readonly<Record<Event, State>>>>> = {
  received: { 'key accepted': 'claiming', 'no key': 'passed', refused: 'problem', 'outer gone': 'superseded' },
  claiming: { claimed: 'running', 'found recorded': 'replayed', refused: 'problem', 'outer gone': 'superseded' },
  running: {
    'handler returned': 'returned',
    'handler threw': 'failed',
    'to run again': 'pausing',
    'response ended': 'answered',
    'response outgrown': 'problem',
    'time limit': 'failed',
    'outer gone': 'failed',
  },
  answered: {
    'handler returned': 'deciding',
    'handler threw': 'deciding',
    'time limit': 'deciding',
    'outer gone': 'deciding',
  },
  returned: { 'response ended': 'deciding', 'response outgrown': 'problem', 'time limit': 'problem' },
  failed: {
    'handler returned': 'failed',
    'handler threw': 'failed',
    'response ended': 'deciding',
    'time limit': 'problem',
    'next run': 'superseded',
  },
  pausing: {
    claimed: 'running',
    'found recorded': 'replayed',
    refused: 'failed',
    'response ended': 'deciding',
    'time limit': 'failed',
    'outer gone': 'failed',
  },
  deciding: {
    'handler returned': 'deciding',
    'handler threw': 'deciding',
    'time limit': 'deciding',
    'to record': 'recording',
    'to roll back': 'rolling back',
    'not recorded': 'problem',
  },
  recording: {
    'handler returned': 'recording',
    'handler threw': 'recording',
    'time limit': 'recording',
    committed: 'sent',
    'commit unknown': 'resolving',
    'not recorded': 'problem',
    'to run again': 'superseded',
  },
  resolving: {
    'handler returned': 'resolving',
    'handler threw': 'resolving',
    'time limit': 'resolving',
    committed: 'sent',
    'found recorded': 'replayed',
    'not recorded': 'problem',
  },
  'rolling back': {
    'handler returned': 'rolling back',
    'handler threw': 'rolling back',
    'time limit': 'rolling back',
    'rolled back': 'sent',
    'not recorded': 'problem',
  },
  passed: {},
  sent: {},
  replayed: {},
  problem: {},
  superseded: {},
};

const ENDS: readonly State[] = ['passed', 'sent', 'replayed', 'problem', 'superseded'] satisfies End[];

export function isEnd(state: State): state is End {
  return ENDS.includes(state);
}

const STRICT = Symbol.for('nestjs-idempotency.strict');

/**
 * The state that `event` leads to. What comes after the end changes nothing. An event that the table does not have is a
 * bug of this library: tests set `globalThis[Symbol.for('nestjs-idempotency.strict')]` to be told of it, elsewhere it
 * is ignored, since the run goes on to its end as it is.
 */
export function after(state: State, event: Event): State {
  const next = TRANSITIONS[state][event];
  if (next === undefined && !isEnd(state)) {
    (globalThis as { [STRICT]?: (problem: string) => void })[STRICT]?.(`"${event}" has no transition from "${state}"`);
  }
  return next ?? state;
}
