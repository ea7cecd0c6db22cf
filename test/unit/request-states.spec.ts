import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { after, type Event, isEnd, type State, TRANSITIONS } from '../../src/requests/request-states.js';

const STRICT = Symbol.for('nestjs-idempotency.strict');
const states = Object.keys(TRANSITIONS) as State[];

/** The table of ARCHITECTURE.md: a row a state, in each the events and where they lead to. */
function documentedTransitions(): Record<string, Record<string, string>> {
  const text = readFileSync('ARCHITECTURE.md', 'utf8');
  const section = /## The states of a request\n([\s\S]*?)\n## /.exec(text)?.[1] ?? '';
  const table: Record<string, Record<string, string>> = {};
  for (const [, state = '', events = ''] of section.matchAll(/^\| \*\*(.+?)\*\* +\| .*? \| (.*?) *\|$/gm)) {
    table[state] = Object.fromEntries(
      [...events.matchAll(/([a-z ]+?) → ([a-z ]+?)(?:;|$)/g)].map(([, event = '', next = '']) => [
        event.trim(),
        next.trim() === 'stays' ? state : next.trim(),
      ]),
    );
  }
  return table;
}

describe('the states of a request', () => {
  it('are those of ARCHITECTURE.md, transition for transition', () => {
    expect(documentedTransitions()).toEqual(TRANSITIONS);
  });

  it('can all be reached, and an end from each of them', () => {
    const successors = (state: State): State[] => Object.values(TRANSITIONS[state]);
    const reached = new Set<State>(['received']);
    for (const state of reached) {
      successors(state).forEach((next) => reached.add(next));
    }
    expect([...reached].toSorted()).toEqual([...states].toSorted());
    const ending = new Set<State>(states.filter((state) => isEnd(state)));
    for (let before = -1; before !== ending.size;) {
      before = ending.size;
      states
        .filter((state) => successors(state).some((next) => ending.has(next)))
        .forEach((state) => ending.add(state));
    }
    expect([...ending].toSorted()).toEqual([...states].toSorted());
  });

  it('have ends that nothing leads out of, and that take every late event', () => {
    for (const end of states.filter(isEnd)) {
      expect(TRANSITIONS[end]).toEqual({});
      expect(after(end, 'handler returned')).toBe(end);
    }
  });

  it('tell tests of an event that has no transition, and stay as they are', () => {
    const hooks = globalThis as { [STRICT]?: (problem: string) => void };
    const before = hooks[STRICT];
    const told: string[] = [];
    hooks[STRICT] = (problem) => void told.push(problem);
    try {
      for (const state of states) {
        for (const event of ['claimed', 'committed', 'handler returned'] satisfies Event[]) {
          const next = after(state, event);
          expect(next).toBe(TRANSITIONS[state][event] ?? state);
        }
      }
    } finally {
      hooks[STRICT] = before;
    }
    expect(told).toContain('"committed" has no transition from "running"');
    expect(told.some((problem) => problem.includes('from "sent"'))).toBe(false);
  });
});
