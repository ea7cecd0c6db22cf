import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { replayOf } from '../../../support/response.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../../support/test-app.js';
import { ClassResultsController, HIDING } from './class-results.controller.js';
import { HIDDEN, User } from './classes.js';

/** What ctx.step gives, whatever version or group the route asks for. */
const SHOWN: Record<string, unknown> = {
  itself: { name: 'Ada', initial: 'A' },
  inherited: { name: 'Ada', initial: 'A' },
  'in a list': [{ plain: true }, { name: 'Ada', initial: 'A' }],
  'in a property': { token: 'of nobody', of: { user: { name: 'Ada', initial: 'A' } } },
  'in an instance that hides nothing': { name: 'holder', profile: { city: 'Prague' } },
  'by its class': { name: 'shown' },
  'from all but a group': { name: 'shown' },
  'from a version': { name: 'shown' },
  'by a transformation': { card: 'h***' },
  'by a transformation for a group': {},
  'whatever its value': { name: 'Ada', initial: 'A' },
};

describe.each(ADAPTERS)('what a class hides from clients, as the result of a step, on %s', (adapter) => {
  let test: TestApp;
  let keys = 0;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers: [ClassResultsController], entities: [User] });
  });

  afterAll(() => test.close());

  beforeEach(async () => {
    await test.dataSource.query('truncate effects, "user", idempotency_keys cascade');
    test.logs.length = 0;
  });

  const post = (path: string, key = `key ${keys++}`) => test.post(`/${encodeURI(path)}`, key);
  const stored = async (): Promise<string> =>
    JSON.stringify([
      await test.dataSource.query(`select outcome::text from idempotency_steps`),
      await test.dataSource.query(`select convert_from(response_body, 'UTF8') as body from idempotency_keys`),
    ]);

  describe.each(Object.keys(HIDING))('hidden %s', (what) => {
    it('is refused before COMMIT by ctx.transaction, which says what to do', async () => {
      const key = `key ${keys++}`;
      for (let attempts = 0; attempts < 2; attempts++) {
        const response = await post(`transaction/${what}`, key);
        expect(response.status).toBe(500);
        expect(response.raw.toString()).not.toContain(HIDDEN);
      }
      expect(await test.effects()).toEqual([]);
      expect(test.logs.filter((line) => /ctx\.transaction\(name, \{ as: \w+ \}, run\)/.test(line))).toHaveLength(2);
      expect(test.logs.join('\n')).not.toContain(HIDDEN);
      expect(await stored()).not.toContain(HIDDEN);
    });

    it('is left out by ctx.step, which says so', async () => {
      const key = `key ${keys++}`;
      const first = await post(`step/${what}`, key);
      expect([first.status, JSON.parse(first.body.toString())]).toEqual([201, SHOWN[what]]);
      expect(await post(`step/${what}`, key)).toEqual(replayOf(first));
      expect(await stored()).not.toContain(HIDDEN);
      expect(first.raw.toString()).not.toContain(HIDDEN);
      expect(test.logs.join('\n')).not.toContain(HIDDEN);
    });
  });

  it('is hidden in every attempt, and not stored, where ctx.transaction is told what it is', async () => {
    expect((await post('saved', 'saved')).status).toBe(500);
    expect(await test.dataSource.query('select name, password from "user"')).toEqual([
      { name: 'Ada', password: HIDDEN },
    ]);
    const response = await post('saved', 'saved');
    expect([response.status, JSON.parse(response.body.toString())]).toEqual([
      201,
      { id: expect.any(Number), name: 'Ada', initial: 'A' },
    ]);
    expect(await stored()).not.toContain(HIDDEN);
    expect(test.logs.join('\n')).not.toContain(HIDDEN);
  });

  it.each(['formatted', 'list', 'nested', 'untyped'])('is given back as it was, be it %s', async (what) => {
    const plain = await post(`in-a-transaction/${what}`);
    expect((await post(`as/${what}`, what)).status).toBe(500);
    const response = await post(`as/${what}`, what);
    expect([response.status, response.body.toString()]).toEqual([201, plain.body.toString()]);
    expect(await stored()).not.toContain(HIDDEN);
    expect(await test.effects()).toEqual([what]);
  });

  it('may be nothing', async () => {
    expect((await post('as/nothing', 'nothing')).status).toBe(500);
    expect((await post('as/nothing', 'nothing')).status).toBe(201);
    expect(await test.effects()).toEqual(['nothing']);
  });

  it.each(['growing', 'masked'])('is refused before COMMIT where it cannot be brought back: %s', async (what) => {
    const response = await post(`as/${what}`);
    expect(response.status).toBe(500);
    expect(await test.effects()).toEqual([]);
    expect(test.logs.join('\n')).toContain('cannot be brought back from its data');
    expect(test.logs.join('\n') + response.raw.toString()).not.toContain(HIDDEN);
  });

  it('is nothing in a class of which all is shown as it is', async () => {
    const response = await post('order');
    const order = {
      id: 1,
      placedAt: '1970-01-01T00:00:00.000Z',
      count: 2,
      amount: '1.2',
      lines: [{ label: 'a' }, { label: 'b' }],
      note: null,
    };
    expect([response.status, JSON.parse(response.body.toString())]).toEqual([
      201,
      { stepped: order, committed: [order, 'Prague'] },
    ]);
    expect(test.logs).toEqual([]);
  });

  it('is said once for each class and step', async () => {
    await post('said-once');
    await post('said-once');
    expect(
      test.logs.filter((line) => line.includes(`Step "said once on ${adapter} [1]" returned a User`)),
    ).toHaveLength(1);
    expect(test.logs).toHaveLength(1);
  });

  it('takes no class for a step without a transaction', async () => {
    expect((await post('as-of-a-step')).status).toBe(500);
    expect(test.logs.join('\n')).toContain('`as` is an option of ctx.transaction only');
  });
});
