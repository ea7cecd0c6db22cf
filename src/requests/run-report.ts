import type { IdempotencyException } from '../protocol/exceptions.js';
import type { Event, State } from './request-states.js';
import type { EventPublisher } from './event-publisher.js';
import type { EventSource, RequestEvent, RequestEventType } from '../protocol/events.js';

/** What a run knows of itself at a transition. */
export interface RunFacts {
  readonly scope?: string | undefined;
  readonly key?: string | undefined;
  readonly attempt: number;
  /** Whether its claim is that of an attempt whose lease had run out. */
  readonly tookOver: boolean;
  /** Whether what is recorded is the response to an error. */
  readonly storesError: boolean;
  readonly response?: Pick<RequestEvent, 'status' | 'bodyBytes' | 'bodyKept' | 'originalTrace'> | undefined;
  readonly problem?: IdempotencyException | undefined;
}

type Durations = { -readonly [Name in 'claimMs' | 'handlerMs' | 'recordMs']?: number };

const BEGINS: Partial<Record<Event, keyof Durations>> = {
  'key accepted': 'claimMs',
  claimed: 'handlerMs',
  'to record': 'recordMs',
};

const ENDS: Partial<Record<Event, keyof Durations>> = {
  claimed: 'claimMs',
  'found recorded': 'claimMs',
  refused: 'claimMs',
  'handler returned': 'handlerMs',
  'handler threw': 'handlerMs',
  'to run again': 'handlerMs',
  'time limit': 'handlerMs',
  'outer gone': 'handlerMs',
  committed: 'recordMs',
  'not recorded': 'recordMs',
};

/** By the last part of the problem's `type`; any other one has the writes rolled back. */
const TYPE_OF_PROBLEM: Readonly<Record<string, RequestEventType>> = {
  'key-missing': 'missing',
  'key-malformed': 'malformed',
  'key-reused': 'mismatch',
  'request-in-flight': 'in-flight',
  'response-not-kept': 'not-kept',
  'store-unavailable': 'store-unavailable',
  'transaction-conflict': 'conflict',
  'timed-out': 'timed-out',
  'lease-lost': 'lease-lost',
  'outcome-unknown': 'interrupted',
  'steps-changed': 'steps-changed',
  'transaction-failed': 'rolled-back',
  'too-many-in-flight': 'limited',
  'replay-forbidden': 'replay-refused',
};

/** Tells the transitions of one run to who listens; there is none for a request that nobody listens to. */
export class RunReport {
  private readonly durations: Durations = {};
  private readonly began: Durations = {};
  private hasStarted = false;
  private identity: Pick<EventSource, 'scopeHash' | 'keyHash'> | undefined;

  constructor(
    private readonly events: EventPublisher,
    private readonly route: Pick<EventSource, 'method' | 'route' | 'mode'>,
  ) {}

  /** @param facts are as they stand after the transition to `state` */
  follow(event: Event, state: State, facts: RunFacts): void {
    this.time(event);
    const type = typeOf(event, state, facts.storesError);
    switch (type) {
      case undefined:
        break;
      case 'claimed':
        this.publish(type, facts);
        if (facts.tookOver) {
          this.publish('lease-taken-over', facts);
        }
        break;
      case 'refused':
      case 'rolled-back':
        this.publishProblem(type, facts);
        break;
      default:
        this.publish(type, facts, facts.response);
    }
  }

  /** @param stepMs of one that was run; none of one that was remembered */
  step(step: string, facts: RunFacts, stepMs?: number): void {
    this.events.publish({
      type: stepMs === undefined ? 'step-remembered' : 'step-run',
      ...this.source(facts),
      step,
      ...(stepMs === undefined ? {} : { stepMs }),
    });
  }

  private publishProblem(otherwise: RequestEventType, facts: RunFacts): void {
    const { problem, response } = facts;
    if (problem === undefined) {
      this.publish(otherwise, facts, response);
    } else {
      const { slug } = problem;
      this.publish(TYPE_OF_PROBLEM[slug] ?? 'refused', facts, { status: problem.getStatus(), problem: slug });
    }
  }

  private publish(type: RequestEventType, facts: RunFacts, end: Partial<RequestEvent> = {}): void {
    this.events.publish({ ...this.source(facts), ...this.durations, ...end, type });
  }

  private source(facts: RunFacts): EventSource {
    return { ...this.route, ...this.identify(facts), attempt: this.hasStarted ? facts.attempt : 0 };
  }

  private identify({ scope, key }: RunFacts): Pick<EventSource, 'scopeHash' | 'keyHash'> {
    if (scope === undefined || key === undefined) {
      return {};
    }
    return (this.identity ??= { scopeHash: this.events.hash(scope), keyHash: this.events.hash(scope, key) });
  }

  private time(event: Event): void {
    if (event === 'claimed') {
      this.hasStarted = true;
      delete this.durations.handlerMs;
    }
    const ended = ENDS[event];
    if (ended !== undefined) {
      this.end(ended);
    }
    const begun = BEGINS[event];
    if (begun !== undefined) {
      this.began[begun] = performance.now();
    }
  }

  /** Once for each beginning. */
  private end(name: keyof Durations): void {
    const began = this.began[name];
    if (began !== undefined) {
      delete this.began[name];
      this.durations[name] = performance.now() - began;
    }
  }
}

/** Nothing where nobody need be told; a problem has a type of its own. */
function typeOf(event: Event, state: State, storesError: boolean): RequestEventType | undefined {
  if (event === 'claimed') {
    return 'claimed';
  }
  if (event === 'to run again') {
    return 'run-again';
  }
  switch (state) {
    case 'passed':
      return 'unprotected';
    case 'replayed':
      return 'replayed';
    case 'superseded':
      return 'given-up';
    case 'sent':
      return event === 'rolled back' ? 'rolled-back' : storesError ? 'error-stored' : 'recorded';
    case 'problem':
      return 'refused';
  }
}
