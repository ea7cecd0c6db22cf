import { describe, expect, it } from '@jest/globals';
import { type BodyFields, selectFields } from '../../src/http/body-fields.js';
import type { RequestBody } from '../../src/http/request-body.js';

const json = (value: unknown, fields: BodyFields): unknown => {
  const body = selectFields({ kind: 'json', value }, fields);
  return JSON.parse(JSON.stringify((body as { value: unknown }).value));
};

describe('the fields of a body', () => {
  it.each<[string, unknown, string[], unknown]>([
    ['one on top', { a: 1, b: 2 }, ['a'], { b: 2 }],
    ['one further down', { meta: { at: 1, by: 2 } }, ['meta.at'], { meta: { by: 2 } }],
    ['all of one', { meta: { at: 1 }, b: 2 }, ['meta', 'meta.at'], { b: 2 }],
    ['one of each element', { list: [{ at: 1, by: 2 }, { at: 3 }, 4] }, ['list.at'], { list: [{ by: 2 }, {}, 4] }],
    ['one of each element on top', [{ at: 1, by: 2 }], ['at'], [{ by: 2 }]],
    ['one that is not there', { a: { b: 1 } }, ['a.c', 'x'], { a: { b: 1 } }],
    ['one below what is no object', { a: 1 }, ['a.b'], { a: 1 }],
    ['one that an object only inherits', { a: 1 }, ['toString', '__proto__'], { a: 1 }],
    [
      'one of that name in the body',
      JSON.parse('{"__proto__":{"x":1},"a":1}'),
      ['__proto__.x'],
      JSON.parse('{"__proto__":{},"a":1}'),
    ],
    ['none of a text', 'text', ['a'], 'text'],
    ['none of null', null, ['a'], null],
  ])('are left out: %s', (_, value, omit, expected) => {
    expect(json(value, { omit })).toEqual(expected);
  });

  it.each<[string, unknown, string[], unknown]>([
    ['one on top', { a: 1, b: 2 }, ['a'], { a: 1 }],
    ['some further down', { m: { a: 1, b: 2, c: 3 }, n: 4 }, ['m.a', 'm.c'], { m: { a: 1, c: 3 } }],
    ['all of one', { m: { a: 1, b: 2 }, n: 3 }, ['m.a', 'm'], { m: { a: 1, b: 2 } }],
    ['one of each element', { list: [{ a: 1, b: 2 }, { b: 3 }] }, ['list.a'], { list: [{ a: 1 }, null] }],
    ['null', { a: null, b: 1 }, ['a.b'], { a: null }],
    ['what is no object where one was expected', { a: 'x', b: 1 }, ['a.b'], { a: 'x' }],
    ['all, where none is there', { a: 1, b: 2 }, ['x', 'a2.b'], { a: 1, b: 2 }],
    ['all of a text', 'text', ['a'], 'text'],
    ['all of a list of texts', ['a', 'b'], ['a'], ['a', 'b']],
  ])('are picked: %s', (_, value, pick, expected) => {
    expect(json(value, { pick })).toEqual(expected);
  });

  it('are those of each level, however deep a body is', () => {
    let value: unknown = 1;
    for (let depth = 0; depth < 200_000; depth++) value = [value];
    const body = { kind: 'json', value: { deep: value, a: 1 } } as const;
    expect(selectFields(body, { omit: ['a'] })).toEqual({
      kind: 'json',
      value: expect.objectContaining({ deep: value }),
    });
  });

  it('of a form are texts and files', () => {
    const file = (field: string) => ({ field, size: 1, sha256: field });
    const form: RequestBody = { kind: 'multipart', fields: { a: '1', b: '2' }, files: [file('f'), file('g')] };
    expect(selectFields(form, { omit: ['a', 'f'] })).toEqual({
      kind: 'multipart',
      fields: { b: '2' },
      files: [file('g')],
    });
    expect(selectFields(form, { pick: ['a', 'f'] })).toEqual({
      kind: 'multipart',
      fields: { a: '1' },
      files: [file('f')],
    });
    expect(selectFields(form, { pick: ['f'] })).toEqual({ kind: 'multipart', fields: {}, files: [file('f')] });
    expect(selectFields(form, { pick: ['x'] })).toEqual(form);
  });

  it('are none where nobody can tell one: bytes and no body stay as they are', () => {
    const bytes: RequestBody = { kind: 'bytes', bytes: 'a=1' };
    expect(selectFields(bytes, { omit: ['a'] })).toBe(bytes);
    expect(selectFields({ kind: 'none' }, { pick: ['a'] })).toEqual({ kind: 'none' });
  });
});
