import { afterAll, afterEach, beforeAll } from '@jest/globals';
import { deferred } from '../../../src/util/deferred.js';
import type { RawRequest, RawResponse } from '../../support/raw-http.js';
import { type Adapter, createTestApp, type TestApp, type TestAppOptions } from '../../support/test-app.js';
import { OfModule, Plain, Whole } from './classes.controller.js';
import { Authentication, Cues, Work } from './house.js';
import { Orders } from './orders.controller.js';
import { Users } from './users.controller.js';

/** An application for all tests of a file, what they send it, and what they look at afterwards. */
export function onTheWire(adapter: Adapter) {
  let test: TestApp;
  let cues: Cues;
  const opened: TestApp[] = [];

  async function start(options: Partial<TestAppOptions> = {}): Promise<TestApp> {
    const started = await createTestApp({
      adapter,
      controllers: [Orders, Users, Plain, Whole, OfModule],
      shared: [Cues],
      providers: [Work],
      ...options,
    });
    opened.unshift(started);
    return started;
  }

  beforeAll(async () => {
    test = await start({ idempotency: { scope: undefined } });
    cues = test.app.get(Cues);
  });

  afterEach(() => {
    cues.fails = false;
    Authentication.revoked.clear();
  });

  afterAll(async () => {
    for (const app of opened) {
      await app.close();
    }
  });

  /** A request with the key's own label in its body. */
  function send(path: string, key: string | undefined, given: Partial<RawRequest> = {}, app = test) {
    const { headers = [], ...others } = given;
    const label = (key ?? 'none').replaceAll(/["\\]|;.*/g, '');
    return app.request({
      method: 'POST',
      path,
      body: JSON.stringify({ label }),
      ...others,
      headers: [
        ...(key === undefined ? [] : [['Idempotency-Key', key] as const]),
        ...(headers.some(([name]) => name === 'Content-Type') ? [] : [['Content-Type', 'application/json'] as const]),
        ...headers,
      ],
    });
  }

  const runs = async (label: string, app = test) => (await app.effects()).filter((effect) => effect === label).length;

  const rowOf = async (key: string) =>
    (
      (await test.dataSource.query('select * from idempotency_keys where key = $1', [key])) as Record<string, unknown>[]
    )[0];

  /** Starts a request and resolves once its handler has written. */
  async function sendAndHold(label: string): Promise<{ response: Promise<RawResponse>; goOn: () => void }> {
    const [started, goOn] = [deferred(), deferred()];
    cues.started.set(label, started.resolve);
    cues.goOn.set(label, goOn.promise);
    const response = send('/orders', label);
    await started.promise;
    return { response, goOn: goOn.resolve };
  }
  return { application: () => test, cues: () => cues, start, send, sendAndHold, runs, rowOf };
}
