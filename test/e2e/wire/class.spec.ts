import { describe, expect, it } from '@jest/globals';
import { lines, replayOf } from '../../support/response.js';
import { ADAPTERS } from '../../support/test-app.js';
import { onTheWire } from './on-the-wire.js';
import { problem, problemIn, PROBLEMS } from './problems.js';

describe.each(ADAPTERS)('on the wire, with %s', (adapter) => {
  const { application, start, send, runs, rowOf } = onTheWire(adapter);

  describe('@Idempotent() on a class', () => {
    const withKey = (header: string, key: string) => ({
      headers: [[header, key]] as const,
      body: JSON.stringify({ label: key }),
    });

    it('leaves GET alone', async () => {
      const response = await application().request({ method: 'GET', path: '/whole/read' });
      expect(response.status).toBe(200);
      expect(response.body.toString()).toBe('{"read":true}');
    });

    it.each(['own', 'inherited', 'overridden'])('makes the %s handler idempotent, by its options', async (name) => {
      const given = withKey('X-Class-Key', `class-${name}`);
      const first = await send(`/whole/${name}`, undefined, given);
      expect(first.status).toBe(201);
      expect(await send(`/whole/${name}`, undefined, given)).toEqual(replayOf(first));
      expect(problemIn(await send(`/whole/${name}`, 'in-the-default-header'))).toEqual(problem(PROBLEMS.missing));
    });

    it('gives way to the options of a method, option by option', async () => {
      const given = withKey('X-Method-Key', 'method-option');
      const first = await send('/whole/method', undefined, given);
      expect(await send('/whole/method', undefined, given)).toEqual(replayOf(first));
      const { created_at, expires_at } = (await rowOf('method-option')) as Record<string, Date>;
      expect(expires_at!.getTime() - created_at!.getTime()).toBe(7 * 86_400_000);
      expect(problemIn(await send('/whole/method', undefined, withKey('X-Class-Key', 'x')))).toEqual(
        problem(PROBLEMS.missing),
      );
    });

    it('leaves the other controllers alone that inherit the same handlers', async () => {
      const responses = [await send('/plain/inherited', 'plain'), await send('/plain/inherited', 'plain')];
      expect(responses.map(({ status }) => status)).toEqual([201, 201]);
      expect(await runs('plain')).toBe(2);
      expect(lines(responses[1]!, 'Idempotency-Key')).toEqual([]);
    });

    it('wins over the module, whose options are for all the others', async () => {
      const other = await start({ idempotency: { header: 'X-Module-Key', ttlMs: 60_000 } });
      const ofModule = withKey('X-Module-Key', 'module-option');
      const first = await send('/module/own', undefined, ofModule, other);
      expect(await send('/module/own', undefined, ofModule, other)).toEqual(replayOf(first));
      expect(problemIn(await send('/module/own', 'default', {}, other))).toEqual(problem(PROBLEMS.missing));

      const ofClass = withKey('X-Class-Key', 'class-option');
      expect((await send('/whole/own', undefined, ofClass, other)).status).toBe(201);
      expect(problemIn(await send('/whole/own', undefined, ofModule, other))).toEqual(problem(PROBLEMS.missing));
      expect(
        await other.dataSource.query(
          'select key, extract(epoch from expires_at - created_at)::int as ttl from idempotency_keys order by key',
        ),
      ).toEqual([
        { key: 'class-option', ttl: 7 * 86_400 },
        { key: 'module-option', ttl: 60 },
      ]);
    });
  });
});
