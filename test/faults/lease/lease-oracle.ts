import { createHash } from 'node:crypto';
import { operatorReceipt } from '../app/protocol.js';
import { type Answer, type Exchange, isProblem, type KeyHistory } from '../history.js';
import { mayBeInFlight, sameResponse, type Violation } from '../oracle.js';
import { type Route, routeOf } from '../routes.js';
import { judgeJournal } from './journal-oracle.js';
import type { BookingRow, LeaseEvent, LeaseState, StepMemo } from './lease-state.js';
import type { StepBooks, UnkeyedEffect } from './provider-under-faults.js';

type Report = (rule: string, detail: string) => void;

/** The provider's side of the story. */
export interface Books {
  stepsOf(key: string): ReadonlyMap<string, StepBooks>;
}

/** All that is known of one key. */
export interface KeyEvidence {
  history: KeyHistory;
  route: Route;
  events: LeaseEvent[];
  memos: StepMemo[];
  bookings: BookingRow[];
  steps: ReadonlyMap<string, StepBooks>;
}

/** The steps that ask the provider, in each handler, and where its answer names what came of them. */
const PROVIDER_STEPS = [
  ['reserve', 'reserved'],
  ['charge', 'charged'],
] as const;

/** Holds what the clients saw against what the database kept and what the provider did. */
export function judgeLeases(histories: readonly KeyHistory[], state: LeaseState, books: Books): Violation[] {
  return [...histories.flatMap((history) => judgeKey(history, state, books)), ...judgeWhole(histories, state)];
}

function judgeKey(history: KeyHistory, state: LeaseState, books: Books): Violation[] {
  const { key } = history;
  const evidence: KeyEvidence = {
    history,
    route: routeOf(history.route),
    events: state.eventsOf(key),
    memos: state.memosOf(key),
    bookings: state.bookingsOf(key),
    steps: books.stepsOf(key),
  };
  const violations: Violation[] = [];
  const report = (rule: string, detail: string): void => void violations.push({ rule, key, detail });

  judgeJournal(evidence, report);
  judgeEffects(evidence, report);
  judgeProvider(evidence, report);
  judgeAnswers(evidence, report);
  judgeOrder(evidence, report);
  if (evidence.route.expires !== true && history.resolved && !state.isLive(key)) {
    report('record lost', 'it was answered, has not expired, and is gone');
  }
  if (!history.resolved) {
    report('key stuck', `${history.exchanges.length} requests, the last of them undisturbed, and no definite answer`);
  }
  return violations;
}

/** The writes of a transaction step and its memory are one transaction: neither is there without the other. */
function judgeEffects({ route, bookings, memos }: KeyEvidence, report: Report): void {
  if (route.expires !== true && bookings.length > 1) {
    report('effect doubled', `${bookings.length} bookings`);
  }
  const booked = memos.filter(({ name }) => name === 'book');
  for (const { nonce, xact } of bookings) {
    if (!booked.some((memo) => memo.xact === xact)) {
      report('effect without memory', `booking ${nonce} of transaction ${xact}`);
    }
  }
  for (const { xact } of booked) {
    if (bookings.filter((booking) => booking.xact === xact).length !== 1) {
      report('memory without effect', `transaction ${xact} remembers a booking that is not there`);
    }
  }
}

/** The provider acts once for each step, however often it is called; and it is called no more often than need be. */
function judgeProvider({ route, steps, memos, events }: KeyEvidence, report: Report): void {
  for (const [step, { calls, effects, unkeyed }] of steps) {
    if (effects.length > 1) {
      report('effect at the provider doubled', `step "${step}" was carried out ${effects.length} times`);
    }
    judgeRepeats(step, unkeyed, events, report);
    if (route.expires === true) {
      continue; // attempts are counted anew in each of its lives
    }
    if (new Set(calls).size < calls.length) {
      report('step run twice in an attempt', `step "${step}", attempts ${calls.join(', ')}`);
    }
    const elsewhere = memos.find(({ name }) => name === `${step} elsewhere`);
    if (elsewhere !== undefined && calls.some((attempt) => attempt > elsewhere.attempt)) {
      report('caught failure forgotten', `step "${step}" was tried again behind attempt ${elsewhere.attempt}`);
    }
    const memo = memos.find(({ name }) => name === step);
    if (memo !== undefined && calls.some((attempt) => attempt > memo.attempt)) {
      report('finished step run again', `step "${step}" of attempt ${memo.attempt}: called by ${calls.join(', ')}`);
    }
  }
}

/**
 * Where the provider knows no keys, it acts once more for each attempt that was struck in the step: killed, frozen, or
 * robbed of its lease, so that another took over; and for each time that the provider itself did not say that it had acted.
 */
function judgeRepeats(step: string, effects: UnkeyedEffect[], events: LeaseEvent[], report: Report): void {
  for (const { attempt, isTold, id } of effects) {
    const isRepeated = effects.some((other) => other.id !== id && other.attempt >= attempt);
    const successor = events.find(
      (row) => row.attempt === attempt + 1 && ['resumed', 'taken over'].includes(row.event),
    );
    if (isRepeated && isTold && successor?.event !== 'taken over') {
      report(
        'effect repeated without a cause',
        `step "${step}" of attempt ${attempt}, which was followed by one that was ${successor?.event ?? 'never begun'}`,
      );
    }
  }
}

function judgeAnswers({ history, route, bookings, events, steps }: KeyEvidence, report: Report): void {
  const told = new Map<string, Answer[]>();
  for (const { answer } of history.exchanges) {
    if (answer !== undefined && history.isRecorded(answer)) {
      told.set(answer.receipt!, [...(told.get(answer.receipt!) ?? []), answer]);
    }
  }
  if (told.size > 1 && route.expires !== true) {
    report('replay differs', `${told.size} different receipts were handed out`);
  }
  for (const [receipt, answers] of told) {
    const [first] = answers as [Answer];
    if (route.expires !== true && answers.some((answer) => !sameResponse(answer, first))) {
      report('replay differs', `answers with the receipt ${receipt} differ`);
    }
    if (route.expires !== true && answers.filter(({ replayed }) => !replayed).length > 1) {
      report('answered twice', `more than one answer without the mark of a replay for ${receipt}`);
    }
    const sha = createHash('sha256').update(Buffer.from(first.body, 'latin1')).digest('hex');
    const record = events.find(
      ({ event, status, bodySha }) =>
        (event === 'recorded' || event === 'resolved') && status === first.status && bodySha === sha,
    );
    if (record === undefined) {
      report('answer without record', `${first.status} was sent with the receipt ${receipt}, and is not on record`);
    }
    if (receipt === operatorReceipt(history.key)) {
      continue;
    }
    const said = JSON.parse(Buffer.from(first.body, 'latin1').toString()) as Record<string, unknown>;
    if (first.status < 300 && !bookings.some(({ nonce }) => nonce === receipt)) {
      report('answer without effect', `${first.status} was sent for booking ${receipt}, which is not there`);
    }
    // What an error says that was remembered is an earlier attempt's.
    if (record !== undefined && first.status < 300 && said['attempt'] !== record.attempt) {
      report(
        'recorded by a former holder',
        `the response of attempt ${String(said['attempt'])}, during ${record.attempt}`,
      );
    }
    if (route.unkeyed === true) {
      if (!steps.get('notify')?.unkeyed.some(({ id }) => id === said['notified'])) {
        report('answer without effect at the provider', `step "notify": ${String(said['notified'])}`);
      }
      continue;
    }
    for (const [step, member] of PROVIDER_STEPS) {
      const [effect] = steps.get(step)?.effects ?? [];
      if (effect === undefined || effect.id !== said[member]) {
        report('answer without effect at the provider', `step "${step}": ${effect?.id ?? 'never carried out'}`);
      }
    }
  }
}

/** What each request may be answered with, given what was known when it was sent. */
function judgeOrder(evidence: KeyEvidence, report: Report): void {
  const { history, route } = evidence;
  const endedByItself = evidence.events.some(({ event }) => event === 'released' || event === 'withdrawn');
  const firstOf = (matches: (answer: Answer) => boolean): number =>
    Math.min(
      ...history.exchanges.map(({ answer, answeredAt }) =>
        answer !== undefined && matches(answer) ? answeredAt! : Infinity,
      ),
    );
  const settledAt = firstOf((answer) => history.isDefinite(answer));
  const unknownAt = firstOf((answer) => isProblem(answer, 'outcome-unknown'));
  for (const exchange of history.exchanges) {
    const { answer, answeredAt, sentAt, purpose } = exchange;
    if (answer === undefined || answer.status === 503) {
      continue; // unknown, or out of time, or the store was out of reach: allowed at any time
    }
    const isSettled = sentAt > settledAt && route.expires !== true;
    const told = `${purpose} request got ${answer.status} ${answer.body.slice(0, 200)}`;
    // A holder that is alive may still end its attempt, so that another may follow.
    const undecided = !endedByItself && !history.decisions.some((decision) => decision.sentAt < answeredAt!);
    if (purpose === 'changed payload') {
      if (answer.status !== 422 && route.expires !== true) {
        report('changed payload accepted', told);
      }
    } else if (isProblem(answer, 'request-in-flight')) {
      if (isSettled && !mayBeInFlight(history, exchange)) {
        report('recorded key in flight', told);
      }
    } else if (isSettled && !answer.replayed) {
      report('recorded key executed', told);
    } else if (!isAllowed(history, route, exchange, answer)) {
      report('unexpected answer', told);
    } else if (sentAt > unknownAt && undecided && !answer.replayed && !isProblem(answer, 'outcome-unknown')) {
      report('interrupted operation run again', told);
    }
  }
}

function isAllowed(history: KeyHistory, route: Route, { attempt }: Exchange, answer: Answer): boolean {
  return (
    history.isRecorded(answer) ||
    answer.status === 502 || // the provider's fault
    isProblem(answer, 'lease-lost') ||
    (route.operated === true && isProblem(answer, 'outcome-unknown')) ||
    (route.failure === answer.status && attempt <= history.failures)
  );
}

/** What no single key shows. */
function judgeWhole(histories: readonly KeyHistory[], state: LeaseState): Violation[] {
  const known = new Set(histories.map(({ key }) => key));
  const strangers = state.keys().filter((key) => !known.has(key));
  const isolated = histories
    .filter(({ route }) => route === 'isolated')
    .flatMap(({ key }) => state.bookingsOf(key))
    .reduce((sum, { amount }) => sum + amount, 0);
  return [
    ...strangers.map((key) => ({ rule: 'unknown key', key, detail: 'nobody ever sent it' })),
    ...state.leftSteps.map(({ key, name }) => ({ rule: 'step left behind', key, detail: `step "${name}"` })),
    ...(isolated === state.balance
      ? []
      : [{ rule: 'sum differs', key: '', detail: `accounts hold ${state.balance}, bookings say ${isolated}` }]),
    ...state.leftovers.map((detail) => ({ rule: 'session left behind', key: '', detail })),
  ];
}
