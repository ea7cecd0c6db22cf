import { describe, expect, it } from '@jest/globals';
import { DatabaseError } from 'pg';
import { QueryFailedError } from 'typeorm';
import { isDefiniteFailure, isSessionEnd } from '../../src/postgres/sqlstate.js';

/** As pg makes it of what a server says, who may speak any language. */
function said(code: string, severity: string): DatabaseError {
  return Object.assign(new DatabaseError('a message', 10, 'error'), { code, severity });
}

describe('an error of the server', () => {
  it.each([
    ['a constraint', '23505'],
    ['a serialization failure', '40001'],
    ['a deadlock', '40P01'],
    ['a failed transaction', '25P02'],
    ['a read-only transaction', '25006'],
    ['a cancelled statement', '57014'],
    ['a lock that is not to be had', '55P03'],
    ['a missing right', '42501'],
    ['RAISE EXCEPTION', 'P0001'],
    ['a condition of the application', 'AB123'],
  ])('is definite: %s (%s)', (_what, code) => {
    for (const severity of ['ERROR', 'FEHLER', 'ОШИБКА', 'LỖI']) {
      expect(isDefiniteFailure(said(code, severity))).toBe(true);
      expect(isDefiniteFailure(new QueryFailedError('commit', [], said(code, severity)))).toBe(true);
      expect(isSessionEnd(said(code, severity))).toBe(false);
    }
  });

  it.each([
    ['an administrator', '57P01'],
    ['a crash', '57P02'],
    ['a shutdown', '57P03'],
    ['idle_in_transaction_session_timeout', '25P03'],
    ['transaction_timeout', '25P04'],
    ['a lost connection', '08006'],
    ['a pooler', '08P01'],
  ])('that ends the session leaves the outcome open: %s (%s)', (_what, code) => {
    for (const severity of ['FATAL', 'PANIC', 'ВАЖНО', 'ERROR']) {
      expect(isDefiniteFailure(said(code, severity))).toBe(false);
      expect(isSessionEnd(said(code, severity))).toBe(true);
    }
  });

  it.each([
    ['a full disk', '53100'],
    ['a failing disk', '58030'],
    ['an internal error', 'XX000'],
    ['too many connections', '53300'],
  ])('that may be raised to PANIC, or come from a pooler, leaves the outcome open: %s (%s)', (_what, code) => {
    expect(isDefiniteFailure(said(code, 'PANIK'))).toBe(false);
    expect(isSessionEnd(said(code, 'ERROR'))).toBe(false);
  });
});

describe('an error of the way there', () => {
  it.each(['EPIPE', 'ECONNRESET', undefined])('is neither: %s', (code) => {
    const error = Object.assign(new Error('write'), { code });
    expect([isDefiniteFailure(error), isSessionEnd(error)]).toEqual([false, false]);
  });

  it.each([undefined, 'a text', {}])('is neither: %s', (error) => {
    expect([isDefiniteFailure(error), isSessionEnd(error)]).toEqual([false, false]);
  });
});
