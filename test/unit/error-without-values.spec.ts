import { inspect } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import { DatabaseError } from 'pg';
import { QueryFailedError } from 'typeorm';
import { errorWithoutValues } from '../../src/util/error-without-values.js';

const SECRET = 'card-4111';

function refused(): DatabaseError {
  const error = new DatabaseError('duplicate key value', 10, 'error');
  return Object.assign(error, {
    code: '23505',
    severity: 'ERROR',
    constraint: 'accounts_card_key',
    detail: `Key (card)=(${SECRET})`,
    where: `unnamed portal with parameters: $1 = '${SECRET}'`,
    internalQuery: `select '${SECRET}'`,
  });
}

const shown = (error: unknown): string => inspect(error, { depth: Infinity, showHidden: true });

describe('an error without values', () => {
  it('still tells what has happened, by its class, message, stack, SQLSTATE and constraint', () => {
    const error = refused();
    const stripped = errorWithoutValues(error);
    expect(shown(stripped)).not.toContain(SECRET);
    expect(stripped).toBeInstanceOf(DatabaseError);
    expect(stripped).toMatchObject({
      message: error.message,
      stack: error.stack,
      code: '23505',
      severity: 'ERROR',
      constraint: 'accounts_card_key',
    });
  });

  it('leaves the error itself as it is', () => {
    const error = refused();
    errorWithoutValues(error);
    expect(error.detail).toContain(SECRET);
  });

  it('is stripped in all its parts: TypeORM’s wrapper, causes, those of several', () => {
    const wrapped = new QueryFailedError(`insert into accounts values ('${SECRET}')`, [SECRET], refused());
    const nested = new AggregateError([wrapped, new Error('other', { cause: wrapped })], 'several', {
      cause: refused(),
    });
    const stripped = errorWithoutValues(nested) as AggregateError;
    expect(shown(stripped)).not.toContain(SECRET);
    expect(stripped.errors[0]).toBeInstanceOf(QueryFailedError);
    expect(stripped.errors[0]).toMatchObject({ driverError: { code: '23505' }, code: '23505' });
  });

  it('is the same error where there is nothing to strip', () => {
    const error = new Error('one', { cause: new Error('other') });
    expect(errorWithoutValues(error)).toBe(error);
    expect(errorWithoutValues('text')).toBe('text');
    expect(errorWithoutValues(undefined)).toBeUndefined();
  });

  it('is stripped in a circle, too', () => {
    const error = Object.assign(refused(), { cause: new Error('other') });
    (error.cause as Error).cause = error;
    const stripped = errorWithoutValues(error) as Error;
    expect(shown(stripped)).not.toContain(SECRET);
    expect(stripped).toMatchObject({ code: '23505' });
  });
});
