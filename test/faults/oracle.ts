import { createHash } from 'node:crypto';
import { type Answer, type Exchange, isProblem, type KeyHistory } from './history.js';
import type { CommittedState, EffectRow, JournalRow } from './committed-state.js';
import { type Route, routeOf } from './routes.js';

export interface Violation {
  rule: string;
  key: string;
  detail: string;
}

/** Holds what the clients saw against what the database kept. It knows the promise, and nothing of how it is kept. */
export function judge(histories: readonly KeyHistory[], state: CommittedState): Violation[] {
  return [...histories.flatMap((history) => judgeKey(history, state)), ...judgeWhole(histories, state)];
}

function judgeKey(history: KeyHistory, state: CommittedState): Violation[] {
  const route = routeOf(history.route);
  const effects = state.effectsOf(history.key);
  const journal = state.journalOf(history.key);
  const records = journal.filter(({ event }) => event === 'recorded');
  const violations: Violation[] = [];
  const report = (rule: string, detail: string): void => void violations.push({ rule, key: history.key, detail });

  judgeCommits(route, effects, records, state, report);
  judgeLives(route, journal, report);
  judgeAnswers(history, effects, records, report);
  judgeOrder(history, route, report);
  if (!route.expires && records.length > 0 && !state.isLive(history.key)) {
    report('record lost', 'it was committed, has not expired, and is gone');
  }
  if (!history.resolved) {
    report('key stuck', `${history.exchanges.length} requests, the last of them undisturbed, and no definite answer`);
  }
  return violations;
}

type Report = (rule: string, detail: string) => void;

/** Record and writes are one transaction: neither is there without the other. */
function judgeCommits(
  route: Route,
  effects: EffectRow[],
  records: JournalRow[],
  state: CommittedState,
  report: Report,
): void {
  if (!route.expires && effects.length > 1) {
    report('effect doubled', `${effects.length} effects`);
  }
  for (const { nonce, xact } of effects) {
    if (!records.some((record) => record.xact === xact && record.status < 300)) {
      report('effect without record', `effect ${nonce} of transaction ${xact}`);
    }
    if (state.postingXact(nonce) !== xact) {
      report('half an effect', `posting of ${nonce}: transaction ${state.postingXact(nonce)}, not ${xact}`);
    }
  }
  for (const { xact, status } of records) {
    const own = effects.filter((effect) => effect.xact === xact);
    if (own.length !== (status < 300 ? 1 : 0)) {
      report('record without effect', `transaction ${xact} recorded ${status} with ${own.length} effects`);
    }
  }
}

/** A key may be recorded anew, or purged, only when it has expired by the database's clock. */
function judgeLives(route: Route, journal: JournalRow[], report: Report): void {
  let life: JournalRow | undefined;
  for (const row of journal) {
    if (life !== undefined && row.event === 'recorded' && row.createdAt < life.expiresAt) {
      report('record replaced', `recorded anew ${life.expiresAt - row.createdAt} ms before it expired`);
    }
    if (row.event === 'purged' && row.at < row.expiresAt) {
      report('record purged', `${row.expiresAt - row.at} ms before it expired`);
    }
    if (!route.expires && row.event !== 'recorded') {
      report('record changed', `${row.event}, though nobody asked for it`);
    }
    life = row.event === 'purged' ? undefined : row;
  }
}

/** Every answer of the handler's tells of something that is committed, and one execution is told of in one way only. */
function judgeAnswers(history: KeyHistory, effects: EffectRow[], records: JournalRow[], report: Report): void {
  const told = new Map<string, Answer[]>();
  for (const { answer } of history.exchanges) {
    if (answer !== undefined && history.isRecorded(answer)) {
      told.set(answer.receipt!, [...(told.get(answer.receipt!) ?? []), answer]);
    }
  }
  const expires = (routeOf(history.route) as Route).expires === true;
  if (told.size > 1 && !expires) {
    report('replay differs', `${told.size} different receipts were handed out`);
  }
  for (const [receipt, answers] of told) {
    const [first] = answers as [Answer];
    if (answers.some((answer) => !sameResponse(answer, first))) {
      report('replay differs', `answers to execution ${receipt} differ`);
    }
    const unmarked = answers.filter(({ replayed }) => !replayed);
    if (unmarked.length > 1) {
      report('answered twice', `${unmarked.length} answers without the mark of a replay for execution ${receipt}`);
    }
    if (first.status < 300 && !effects.some(({ nonce }) => nonce === receipt)) {
      report('answer without effect', `${first.status} was sent for execution ${receipt}, which left nothing`);
    }
    const sha = createHash('sha256').update(Buffer.from(first.body, 'latin1')).digest('hex');
    const isKept = ({ status, bodySha }: JournalRow): boolean =>
      status === first.status && (bodySha === sha || (bodySha === null && routeOf(history.route).tombstone === true));
    if (!records.some(isKept)) {
      report('answer without record', `${first.status} was sent for execution ${receipt}, and is not on record`);
    }
  }
}

export function sameResponse(one: Answer, other: Answer): boolean {
  return (
    one.status === other.status &&
    one.body === other.body &&
    one.contentType === other.contentType &&
    one.contentLength === other.contentLength
  );
}

/** What each request may be answered with, given what was known when it was sent. */
function judgeOrder(history: KeyHistory, route: Route, report: Report): void {
  const settledAt = Math.min(
    ...history.exchanges.map(({ answer, answeredAt }) =>
      answer !== undefined && history.isDefinite(answer) ? answeredAt! : Infinity,
    ),
  );
  for (const exchange of history.exchanges) {
    const { answer, sentAt, purpose } = exchange;
    if (answer === undefined || answer.status === 503) {
      continue; // unknown, or the store was out of reach: allowed at any time
    }
    const isSettled = sentAt > settledAt && !route.expires;
    const told = `${purpose} request got ${answer.status} ${answer.body.slice(0, 200)}`;
    if (purpose === 'changed payload' && !route.expires) {
      if (answer.status !== 422) {
        report('changed payload accepted', told);
      }
    } else if (isProblem(answer, 'request-in-flight')) {
      if (isSettled && !mayBeInFlight(history, exchange)) {
        report('recorded key in flight', told);
      }
    } else if (isSettled && !answer.replayed && !isProblem(answer, 'response-not-kept')) {
      report('recorded key executed', told);
    } else if (!isAllowed(history, exchange, answer)) {
      report('unexpected answer', told);
    }
  }
}

/** A request that got no answer may run for ever, as far as anybody can tell. */
export function mayBeInFlight(history: KeyHistory, { sentAt }: Exchange): boolean {
  return history.exchanges.some(
    (other) => other.sentAt < sentAt && (other.answer === undefined || other.answeredAt! > sentAt),
  );
}

function isAllowed(history: KeyHistory, { attempt, purpose }: Exchange, answer: Answer): boolean {
  const { failure, expires } = routeOf(history.route) as Route;
  return (
    history.isRecorded(answer) ||
    isProblem(answer, 'response-not-kept') ||
    (failure === answer.status && attempt <= history.failures) ||
    (expires === true && purpose === 'changed payload' && (answer.status === 422 || answer.status === 201))
  );
}

/** What no single key shows. */
function judgeWhole(histories: readonly KeyHistory[], state: CommittedState): Violation[] {
  const known = new Set(histories.map(({ key }) => key));
  const strangers = state.keys().filter((key) => !known.has(key));
  const serializable = histories
    .filter(({ route }) => route === 'serializable')
    .flatMap(({ key }) => state.effectsOf(key))
    .reduce((sum, { amount }) => sum + amount, 0);
  return [
    ...strangers.map((key) => ({ rule: 'unknown key', key, detail: 'nobody ever sent it' })),
    ...(serializable === state.balance
      ? []
      : [{ rule: 'sum differs', key: '', detail: `accounts hold ${state.balance}, effects say ${serializable}` }]),
    ...state.leftovers.map((detail) => ({ rule: 'session left behind', key: '', detail })),
  ];
}
