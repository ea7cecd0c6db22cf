import { afterEach } from '@jest/globals';

/** A transition that the table of states does not have fails the test in which it happens, whoever swallows the error. */
const impossible: string[] = [];

Object.assign(globalThis, {
  [Symbol.for('nestjs-idempotency.strict')]: (problem: string) => {
    impossible.push(problem);
  },
});

afterEach(() => {
  if (impossible.length > 0) {
    throw new Error(`The table of states does not have: ${impossible.splice(0).join(', ')}`);
  }
});
