import { afterAll, afterEach, beforeAll, expect } from '@jest/globals';
import type { Type } from '@nestjs/common';
import type { RawResponse } from '../../support/raw-http.js';
import { lines, replayOf } from '../../support/response.js';
import { queriesOn } from '../../support/empty-database.js';
import { type Adapter, createTestApp, type TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { gates, Ledger, notes, stage } from './stage.js';

/** An application with these handlers, what tests send it, and what they look at afterwards. */
export function outcomesOn(adapter: Adapter, controllers: Type[], schema: string[] = []) {
  let test: TestApp;

  beforeAll(async () => {
    test = await createTestApp({ adapter, controllers, providers: [Ledger] });
    await queriesOn(test.databaseUrl, schema);
  });

  afterEach(() => {
    stage.broken = true;
    gates.reset();
    notes.clear();
  });

  afterAll(() => test.close());

  /** The label, which is the key as well, names what the request leaves behind. */
  const send = (path: string, body: object = {}, label = path) => test.post(`/${path}`, label, { label, ...body });

  const effects = async (label: string) => (await test.effects()).filter((effect) => effect === label).length;

  const isStored = async (key: string) =>
    ((await test.dataSource.query('select 1 from idempotency_keys where key = $1', [key])) as unknown[]).length === 1;

  /** Nothing of the request is there, and a retry that may succeed runs once, commits and is replayed. */
  async function expectRolledBack(path: string, retried = () => send(path)): Promise<void> {
    expect([await effects(path), await isStored(path)]).toEqual([0, false]);
    stage.broken = false;
    const second = await retried();
    expect(second.status).toBe(201);
    expect(lines(second, 'Idempotency-Replayed')).toEqual([]);
    expect(await send(path)).toEqual(replayOf(second));
    expect([await effects(path), await isStored(path)]).toEqual([1, true]);
  }

  /** Where the connection was closed in the middle, PostgreSQL may take a moment to notice. */
  const onceFree = (request: () => Promise<RawResponse>) => () =>
    waitFor(
      async () => {
        const response = await request();
        return response.status === 409 ? undefined : response;
      },
      { what: 'the key to be free' },
    );
  return { application: () => test, send, effects, isStored, expectRolledBack, onceFree };
}
