import { describe, expect, it } from '@jest/globals';
import { type HandlerEnd, type Verdict, verdictOn } from '../../src/requests/verdict.js';
import type { Writer } from '../../src/http/response/writer.js';

type Row = [HandlerEnd, Writer, status: number, verdict: Verdict];

const storesAll = (): boolean => true;

/** Every end of a handler, every writer, and the three kinds of status; without `storeErrors`. */
const WITHOUT_STORED_ERRORS: Row[] = [
  ['returned', 'handler', 201, 'record'],
  ['returned', 'handler', 409, 'record'],
  ['returned', 'handler', 500, 'roll back'],
  ['returned', 'framework', 201, 'record'],
  ['returned', 'framework', 409, 'record'],
  ['returned', 'framework', 500, 'roll back'],
  ['returned', 'error', 200, 'roll back'],
  ['returned', 'error', 409, 'roll back'],
  ['returned', 'error', 500, 'roll back'],
  ['returned', 'problem', 409, 'roll back'],
  ['returned', 'problem', 503, 'roll back'],
  ['failed', 'handler', 201, 'roll back and replace'],
  ['failed', 'handler', 409, 'roll back and replace'],
  ['failed', 'handler', 500, 'roll back and replace'],
  ['failed', 'framework', 200, 'roll back'],
  ['failed', 'framework', 409, 'roll back'],
  ['failed', 'framework', 500, 'roll back'],
  ['failed', 'error', 200, 'roll back'],
  ['failed', 'error', 409, 'roll back'],
  ['failed', 'error', 500, 'roll back'],
  ['failed', 'problem', 409, 'roll back'],
  ['given up', 'handler', 201, 'roll back and replace'],
  ['given up', 'framework', 200, 'roll back'],
  ['given up', 'error', 408, 'roll back'],
  ['given up', 'problem', 503, 'roll back'],
];

/** What changes where every error is stored: only an error that is the operation's own outcome. */
const WITH_STORED_ERRORS: Row[] = [
  ['returned', 'error', 200, 'record the error'],
  ['returned', 'error', 409, 'record the error'],
  ['failed', 'framework', 200, 'record the error'],
  ['failed', 'framework', 409, 'record the error'],
  ['failed', 'error', 200, 'record the error'],
  ['failed', 'error', 409, 'record the error'],
];

describe('the verdict on an operation whose handler and response have ended', () => {
  it.each(WITHOUT_STORED_ERRORS)('%s, answered by the %s with %d: %s', (handler, writer, status, verdict) => {
    expect(verdictOn(handler, writer, status, undefined)).toBe(verdict);
    expect(verdictOn(handler, writer, status, () => false)).toBe(verdict);
  });

  it.each(WITHOUT_STORED_ERRORS)(
    '%s, answered by the %s with %d, errors stored',
    (handler, writer, status, verdict) => {
      const stored = WITH_STORED_ERRORS.find((row) => row[0] === handler && row[1] === writer && row[2] === status);
      expect(verdictOn(handler, writer, status, storesAll)).toBe(stored?.[3] ?? verdict);
    },
  );

  it('asks the route about the status of an error only, and never of 500 and more', () => {
    const asked: number[] = [];
    const storeErrors = (status: number): boolean => asked.push(status) > 0;
    verdictOn('returned', 'framework', 422, storeErrors);
    verdictOn('failed', 'error', 500, storeErrors);
    verdictOn('failed', 'problem', 409, storeErrors);
    verdictOn('failed', 'error', 404, storeErrors);
    expect(asked).toEqual([404]);
  });
});
