import { describe, expect, it } from '@jest/globals';
import { valueLikeThatOf } from '../../src/requests/outcome-answers.js';

const MIB = 1024 * 1024;

describe('the value that outer interceptors get of a replay', () => {
  const of = (body: string, ...headers: [string, string][]) =>
    valueLikeThatOf({
      status: 201,
      headers: [['Content-Type', 'application/json; charset=utf-8'], ...headers],
      body: Buffer.from(body),
    });

  it('is what its JSON says', () => {
    expect(of('{"a":[1]}')).toEqual({ a: [1] });
  });

  it('is nothing where reading it would hold up all other requests', () => {
    expect(of(`"${'x'.repeat(MIB - 2)}"`)).toHaveLength(MIB - 2);
    expect(of(`"${'x'.repeat(MIB)}"`)).toBeUndefined();
  });

  it('is nothing where it is encoded, or only calls itself JSON', () => {
    expect(of('{"a":1}', ['content-encoding', 'gzip'])).toBeUndefined();
    expect(of('{"a":')).toBeUndefined();
    expect(of('')).toBeUndefined();
  });
});
