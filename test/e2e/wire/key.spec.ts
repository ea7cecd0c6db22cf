import { describe, expect, it } from '@jest/globals';
import { json, lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { onTheWire } from './on-the-wire.js';
import { problem, problemIn, PROBLEMS } from './problems.js';

describe.each(ADAPTERS)('on the wire, with %s', (adapter) => {
  const { send, runs, rowOf } = onTheWire(adapter);

  describe('a key', () => {
    it('is demanded by default', async () => {
      const response = await send('/orders', undefined);
      expect(problemIn(response)).toEqual(problem(PROBLEMS.missing));
      expect(json(response)['detail']).toContain('the header Idempotency-Key');
      expect(lines(response, 'Idempotency-Key')).toEqual([]);
      expect(await runs('none')).toBe(0);
    });

    it.each<[string, (readonly [string, string])[]]>([
      ['empty', [['Idempotency-Key', '']]],
      ['an empty string in quotes', [['Idempotency-Key', '""']]],
      ['256 characters long', [['Idempotency-Key', 'x'.repeat(256)]]],
      ['256 characters long in quotes', [['Idempotency-Key', `"${'x'.repeat(256)}"`]]],
      ['not printable', [['Idempotency-Key', 'a\tb']]],
      ['not ASCII', [['Idempotency-Key', 'cl\u00e9']]],
      ['a quote that does not end', [['Idempotency-Key', '"abc']]],
      ['a string with something behind it', [['Idempotency-Key', '"abc"def']]],
      ['a string with an unknown escape', [['Idempotency-Key', String.raw`"a\bc"`]]],
      ['a list of strings', [['Idempotency-Key', '"a", "b"']]],
      // prettier-ignore
      ['sent in two lines', [['Idempotency-Key', 'abc'], ['Idempotency-Key', 'abc']]],
      // prettier-ignore
      ['sent in two lines that differ in case', [['Idempotency-Key', 'abc'], ['idempotency-KEY', 'abc']]],
    ])('is refused when it is %s', async (_, headers) => {
      const response = await send('/orders', undefined, { headers });
      expect(problemIn(response)).toEqual(problem(PROBLEMS.malformed));
      expect(lines(response, 'Idempotency-Key')).toEqual([]);
      expect(await runs('none')).toBe(0);
    });

    it.each([
      ['255 characters', 'y'.repeat(255), 'y'.repeat(255)],
      ['255 characters with escapes', `"${String.raw`\"`.repeat(255)}"`, '"'.repeat(255)],
      ['a list to look at', 'a, b;c=d', 'a, b;c=d'],
    ])('may be %s', async (_, sent, key) => {
      const first = await send('/orders', sent);
      expect(first.status).toBe(201);
      expect(await send('/orders', sent)).toEqual(replayOf(first));
      expect(await rowOf(key)).toBeDefined();
    });

    it('is the same in quotes and bare, whatever its parameters, and echoed as it was sent', async () => {
      const first = await send('/orders', '"same-key"');
      expect(lines(first, 'Idempotency-Key')).toEqual(['"same-key"']);
      for (const spelling of ['same-key', '"same-key";expires=60']) {
        const replay = await send('/orders', spelling);
        expect(replay).toEqual(replayOf(first));
        expect(lines(replay, 'Idempotency-Key')).toEqual([spelling]);
      }
      expect(await runs('same-key')).toBe(1);
    });

    it('is read from the header in whatever case it is written', async () => {
      const body = '{"label":"odd-case"}';
      const first = await send('/orders', undefined, { headers: [['iDEMPOTENCY-kEY', 'odd-case']], body });
      expect(await send('/orders', 'odd-case', { body })).toEqual(replayOf(first));
    });

    it('may be left out where the route says so, and then protects nothing', async () => {
      const [one, other] = [await send('/optional', undefined), await send('/optional', undefined)];
      expect([one.status, other.status]).toEqual([201, 201]);
      expect(json(one)['key']).toBeNull();
      expect(json(one)['id']).not.toBe(json(other)['id']);
      expect(lines(one, 'Idempotency-Key')).toEqual([]);

      const first = await send('/optional', 'not-left-out');
      expect(json(first)['key']).toBe('not-left-out');
      expect(await send('/optional', 'not-left-out')).toEqual(replayOf(first));
      expect(problemIn(await send('/optional', '', {}))).toEqual(problem(PROBLEMS.malformed));
    });

    it('may come in another header', async () => {
      const headers = [['X-Request-ID', 'renamed-1']] as const;
      const first = await send('/renamed', undefined, { headers });
      expect(lines(first, 'X-Request-ID')).toEqual(['renamed-1']);
      expect(await send('/renamed', undefined, { headers })).toEqual(replayOf(first));

      const missing = await send('/renamed', 'in-the-usual-header');
      expect(problemIn(missing)).toEqual(problem(PROBLEMS.missing));
      expect(json(missing)['detail']).toContain('the header X-Request-ID');
    });

    it('may come from the body', async () => {
      const body = '{"label":"from-body","event":{"id":"evt_1"}}';
      const first = await send('/from-body', 'this header is not looked at', { body });
      expect(lines(first, 'Idempotency-Key')).toEqual([]);
      expect(await send('/from-body', undefined, { body })).toEqual(replayOf(first));
      expect(await rowOf('evt_1')).toBeDefined();

      for (const id of ['null', '""']) {
        const none = { body: `{"label":"from-body","event":{"id":${id}}}` };
        expect(problemIn(await send('/from-body', 'header', none))).toEqual(problem(PROBLEMS.missing));
        expect((await send('/from-body-optional', 'header', none)).status).toBe(201);
      }
      for (const id of ['17', '{"a":1}', '["a"]', 'true', '"cl\u00e9"']) {
        const odd = { body: `{"label":"from-body","event":{"id":${id}}}` };
        expect(problemIn(await send('/from-body', 'header', odd))).toEqual(problem(PROBLEMS.malformed));
      }
      expect(await runs('from-body')).toBe(3);
    });

    it("may be a webhook's event id, with a fingerprint that its deliveries have in common", async () => {
      const deliver = (id: string, sentAt: string) =>
        send('/webhook', undefined, {
          headers: [['webhook-id', id]],
          body: JSON.stringify({ label: 'webhook', sentAt }),
        });
      const first = await deliver('msg_1', '12:00');
      expect(await deliver('msg_1', '12:05')).toEqual(replayOf(first));
      expect((await deliver('msg_2', '12:06')).status).toBe(201);
      expect(await runs('webhook')).toBe(2);
    });

    it('must have the form that the route asks for, all of it', async () => {
      expect((await send('/patterned', 'order_abc')).status).toBe(201);
      expect((await send('/patterned', 'order')).status).toBe(201);
      for (const key of ['order_', 'order_ab1', 'my order_abc', 'order_abc2']) {
        expect(problemIn(await send('/patterned', key))).toEqual(problem(PROBLEMS.malformed));
      }
    });
  });
});
