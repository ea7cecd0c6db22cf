import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { Idempotent } from '../../../src/index.js';
import type { RawResponse } from '../../support/raw-http.js';
import { ADAPTERS, createTestApp, type TestApp } from '../../support/test-app.js';
import { REFUSED, REFUSED_FOR_GOOD, refusedWritesController, TAKEN } from './refused-writes.controller.js';

const PLAIN = (() => () => undefined) as unknown as typeof Idempotent;

describe.each(ADAPTERS)('what a handler writes that Node does not take, on %s', (adapter) => {
  let test: TestApp;
  beforeAll(async () => {
    test = await createTestApp({
      adapter,
      controllers: [refusedWritesController('plain', PLAIN), refusedWritesController('idempotent', Idempotent)],
    });
  });
  afterAll(() => test.close());
  beforeEach(() => test.dataSource.query('truncate effects, idempotency_keys cascade'));

  const send = (prefix: string, what: string): Promise<RawResponse> => test.post(`/${prefix}/${encodeURI(what)}`, what);
  const effects = async (): Promise<string[]> => (await test.effects()).filter((label) => label === 'idempotent');
  const withoutFraming = ({ raw }: RawResponse): string => raw.toString().split('\r\n\r\n').slice(1).join('\r\n\r\n');

  it.each(Object.keys(REFUSED))('fails where it is written, before COMMIT, as on a plain route: %s', async (what) => {
    const plain = await send('plain', what);
    for (let attempts = 0; attempts < 2; attempts++) {
      const response = await send('idempotent', what);
      expect(response.statusLine).toBe(plain.statusLine);
      expect(response.body.toString()).toBe(plain.body.toString());
    }
    expect(await effects()).toEqual([]);
  });

  it.each(Object.keys(REFUSED_FOR_GOOD))('is answered all the same, and undone: %s', async (what) => {
    expect((await send('idempotent', what)).status).toBeGreaterThanOrEqual(500);
    expect(await effects()).toEqual([]);
  });

  it.each(Object.keys(TAKEN))('is another thing than what it takes: %s', async (what) => {
    const plain = await send('plain', what);
    const first = await send('idempotent', what);
    const replay = await send('idempotent', what);
    expect([first.statusLine, withoutFraming(first)]).toEqual([plain.statusLine, withoutFraming(plain)]);
    expect([replay.status, replay.body.toString()]).toEqual([first.status, first.body.toString()]);
    expect(await effects()).toEqual(['idempotent']);
  });
});
