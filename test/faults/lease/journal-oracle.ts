import type { KeyEvidence } from './lease-oracle.js';
import type { LeaseEvent, StepMemo } from './lease-state.js';

type Report = (rule: string, detail: string) => void;

/** What only the holder of the lease may do. */
const HOLDERS_OWN: readonly LeaseEvent['event'][] = ['renewed', 'recorded', 'released', 'withdrawn'];

/** One attempt holds the key at a time, and nothing of another's gets through. */
export function judgeJournal({ route, events, memos }: KeyEvidence, report: Report): void {
  let claim: LeaseEvent | undefined;
  let recorded: string | undefined;
  for (const row of events) {
    const what = `${row.event} as attempt ${row.attempt} by ${row.session}`;
    switch (row.event) {
      case 'taken over':
        if (row.leaseLives === true) {
          report('live lease taken', what);
        }
        if (route.operated === true) {
          report('interrupted operation run again', what);
        }
        break;
      case 'changed':
        report('record changed', what);
        break;
      case 'purged':
        if (route.expires !== true) {
          report('record purged', what);
        }
        break;
    }
    if (row.event === 'claimed' && row.keyLives === true) {
      report('live key claimed anew', what);
    }
    if (HOLDERS_OWN.includes(row.event) && row.session !== claim?.session) {
      report(`${row.event} by a former holder`, `${what}, held by ${claim?.session}`);
    }
    if (row.event === 'recorded' || row.event === 'resolved') {
      if (recorded === row.executionId) {
        report('record replaced', what);
      }
      recorded = row.executionId;
    }
    if (row.event === 'claimed' || row.event === 'resumed' || row.event === 'taken over') {
      claim = row;
    }
  }
  memos.forEach((memo) => judgeMemo(memo, memos, events, report));
}

/** A step is remembered once, by its holder, and before anybody has taken over. */
function judgeMemo(memo: StepMemo, memos: StepMemo[], events: LeaseEvent[], report: Report): void {
  const { executionId, name, attempt, session, committedAt } = memo;
  const what = `step "${name}" of attempt ${attempt}, by ${session}`;
  const claims = events.filter(
    (row) => row.executionId === executionId && ['claimed', 'resumed', 'taken over'].includes(row.event),
  );
  if (memos.some((other) => other !== memo && other.executionId === executionId && other.name === name)) {
    report('step finished twice', what);
  }
  if (!claims.some((claim) => claim.attempt === attempt && claim.session === session)) {
    report('step of a former holder', `${what}, who never held the key as such`);
  }
  const successor = claims.find((claim) => claim.attempt > attempt && claim.committedAt < committedAt);
  if (successor !== undefined) {
    report('step of a former holder', `${what}, behind attempt ${successor.attempt} by ${successor.session}`);
  }
}
